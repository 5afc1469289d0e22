"""Names of AuraFlow's layers in the published checkpoint; diffusers' own conversion says the same. Imports no torch.

The last norm is left out: diffusers swaps the halves of its matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

from tuner.types import OriginalLayer

_FEED_FORWARD = {"c_fc1": "linear_1", "c_fc2": "linear_2", "c_proj": "out_projection"}
_JOINT = {
    **{"attn.w2q": "attn.to_q", "attn.w2k": "attn.to_k", "attn.w2v": "attn.to_v", "attn.w2o": "attn.to_out.0"},
    **{"attn.w1q": "attn.add_q_proj", "attn.w1k": "attn.add_k_proj", "attn.w1v": "attn.add_v_proj"},
    **{"attn.w1o": "attn.to_add_out", "modX.1": "norm1.linear", "modC.1": "norm1_context.linear"},
    **{f"mlpX.{old}": f"ff.{new}" for old, new in _FEED_FORWARD.items()},
    **{f"mlpC.{old}": f"ff_context.{new}" for old, new in _FEED_FORWARD.items()},
}
_SINGLE = {
    **{"attn.w1q": "attn.to_q", "attn.w1k": "attn.to_k", "attn.w1v": "attn.to_v", "attn.w1o": "attn.to_out.0"},
    "modCX.1": "norm1.linear",
    **{f"mlp.{old}": f"ff.{new}" for old, new in _FEED_FORWARD.items()},
}
_REST = {
    "t_embedder.mlp.0": "time_step_proj.linear_1",
    "t_embedder.mlp.2": "time_step_proj.linear_2",
    "cond_seq_linear": "context_embedder",
    "init_x_linear": "pos_embed.proj",
    "final_linear": "proj_out",
}


def _layers() -> Iterator[OriginalLayer]:
    for old, new in _JOINT.items():
        yield OriginalLayer(f"double_layers.{{}}.{old}", (f"joint_transformer_blocks.{{}}.{new}",))
    for old, new in _SINGLE.items():
        yield OriginalLayer(f"single_layers.{{}}.{old}", (f"single_transformer_blocks.{{}}.{new}",))
    for old, new in _REST.items():
        yield OriginalLayer(old, (new,))


ORIGINAL_LAYERS = tuple(_layers())
