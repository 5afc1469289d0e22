"""Which number formats AuraFlow's parts may be stored in."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.family.precision import proven_formats
from tuner.types import QuantisationPolicy


def auraflow_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy. The codec is absent: it is small, and its errors are seen in every picture."""
    return QuantisationPolicy(
        {
            "text_encoders": proven_formats("shared", "*embed_tokens", "*norm*"),
            # Small layers in which rounding errors reach every token: time, text and pixels in, pixels out.
            "denoiser": proven_formats("pos_embed*", "time_step_proj*", "context_embedder", "*norm*", "proj_out"),
        }
    )
