"""Names of Sana's layers in the published checkpoint; diffusers' own conversion says the same. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.types import OriginalLayer

_BLOCK = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.inverted_conv.conv": ("ff.conv_inverted",),
    "mlp.depth_conv.conv": ("ff.conv_depth",),
    "mlp.point_conv.conv": ("ff.conv_point",),
}
_REST = {
    "x_embedder.proj": "patch_embed.proj",
    "t_embedder.mlp.0": "time_embed.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_embed.emb.timestep_embedder.linear_2",
    "t_block.1": "time_embed.linear",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
}


def _layers() -> Iterator[OriginalLayer]:
    for old, names in _BLOCK.items():
        yield OriginalLayer(f"blocks.{{}}.{old}", tuple(f"transformer_blocks.{{}}.{name}" for name in names))
    for old, new in _REST.items():
        yield OriginalLayer(old, (new,))


ORIGINAL_LAYERS = tuple(_layers())
