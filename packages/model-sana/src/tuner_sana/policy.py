"""Which number formats Sana's parts may be stored in."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.family.precision import proven_formats
from tuner.types import QuantisationPolicy


def sana_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy. The codec is absent: it is kept in float32, since it overflows in half precision."""
    return QuantisationPolicy(
        {
            "text_encoders": proven_formats("embed_tokens", "*norm*"),
            # Small layers in which rounding errors reach every token: time, text and pixels in, pixels out.
            "denoiser": proven_formats("patch_embed*", "time_embed*", "caption_projection*", "*norm*", "proj_out"),
        }
    )
