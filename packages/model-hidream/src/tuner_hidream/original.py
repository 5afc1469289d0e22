"""Names of HiDream's layers in the published checkpoint, which diffusers left as they are. Imports no torch."""

from __future__ import annotations

from tuner.types import same_names

_BLOCK = (
    *("adaLN_modulation.1", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out"),
    *(f"ff_i.experts.{{}}.w{number}" for number in (1, 2, 3)),
    *(f"ff_i.shared_experts.w{number}" for number in (1, 2, 3)),
)
_TEXT = (
    *("attn1.to_q_t", "attn1.to_k_t", "attn1.to_v_t", "attn1.to_out_t"),
    *(f"ff_t.w{number}" for number in (1, 2, 3)),
)

ORIGINAL_LAYERS = same_names(
    *(f"double_stream_blocks.{{}}.block.{name}" for name in (*_BLOCK, *_TEXT)),
    *(f"single_stream_blocks.{{}}.block.{name}" for name in _BLOCK),
    *("t_embedder.timestep_embedder.linear_1", "t_embedder.timestep_embedder.linear_2"),
    *("p_embedder.pooled_embedder.linear_1", "p_embedder.pooled_embedder.linear_2"),
    *("x_embedder.proj", "caption_projection.{}.linear", "final_layer.adaLN_modulation.1", "final_layer.linear"),
)
