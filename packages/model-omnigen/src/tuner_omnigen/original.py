"""Names of OmniGen's layers in the published checkpoint: those of Phi-3, whose layers it has. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.types import OriginalLayer

_BLOCK = {
    "self_attn.qkv_proj": ("self_attn.to_q", "self_attn.to_k", "self_attn.to_v"),
    "self_attn.o_proj": ("self_attn.to_out.0",),
    "mlp.gate_up_proj": ("mlp.gate_up_proj",),
    "mlp.down_proj": ("mlp.down_proj",),
}


def _layers() -> Iterator[OriginalLayer]:
    for old, names in _BLOCK.items():
        yield OriginalLayer(f"llm.layers.{{}}.{old}", tuple(f"layers.{{}}.{name}" for name in names))


ORIGINAL_LAYERS = tuple(_layers())
