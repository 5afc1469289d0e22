"""Names of Cosmos2's layers in the published checkpoint; diffusers' own conversion says the same. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.types import OriginalLayer

_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0"}
_BLOCK = {
    **{f"self_attn.{old}": f"attn1.{new}" for old, new in _ATTENTION.items()},
    **{f"cross_attn.{old}": f"attn2.{new}" for old, new in _ATTENTION.items()},
    **{"mlp.layer1": "ff.net.0.proj", "mlp.layer2": "ff.net.2"},
    **{f"adaln_modulation_self_attn.{number}": f"norm1.linear_{number}" for number in (1, 2)},
    **{f"adaln_modulation_cross_attn.{number}": f"norm2.linear_{number}" for number in (1, 2)},
    **{f"adaln_modulation_mlp.{number}": f"norm3.linear_{number}" for number in (1, 2)},
}
_REST = {
    "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
    "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2",
    "x_embedder.proj.1": "patch_embed.proj",
    "final_layer.adaln_modulation.1": "norm_out.linear_1",
    "final_layer.adaln_modulation.2": "norm_out.linear_2",
    "final_layer.linear": "proj_out",
}


def _layers() -> Iterator[OriginalLayer]:
    for old, new in _BLOCK.items():
        yield OriginalLayer(f"blocks.{{}}.{old}", (f"transformer_blocks.{{}}.{new}",))
    for old, new in _REST.items():
        yield OriginalLayer(old, (new,))


ORIGINAL_LAYERS = tuple(_layers())
