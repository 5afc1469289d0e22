"""Which number formats OmniGen's parts may be stored in."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.family.precision import proven_formats
from tuner.types import QuantisationPolicy


def omnigen_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy. There is no text encoder, and the codec is too small to be worth it."""
    return QuantisationPolicy(
        {
            # Small layers in which rounding errors reach every token: text, time and latents in, latents out.
            "denoiser": proven_formats(
                "embed_tokens", "patch_embedding*", "time_token*", "t_embedder*", "*norm*", "proj_out"
            )
        }
    )
