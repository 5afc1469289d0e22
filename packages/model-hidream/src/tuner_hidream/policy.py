"""Which number formats HiDream's parts may be stored in."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.family.precision import proven_formats
from tuner.types import QuantisationPolicy


def hidream_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy. The codec is absent: it is small, and its errors would be in every latent."""
    return QuantisationPolicy(
        {
            "text_encoders": proven_formats("*embed*", "*norm*", "*text_projection*"),
            # Small layers in which rounding errors reach every token: time, text and pixels in, pixels out. The
            # routers choose experts, where a small error makes a large difference.
            "denoiser": proven_formats(
                *("t_embedder*", "p_embedder*", "x_embedder*", "caption_projection*", "*.gate"),
                *("*norm*", "final_layer*"),
            ),
        },
        # Upstream's rule: Llama and the denoiser are quantised by the same library.
        one_library=("base_model_precision", "text_encoder_4_precision"),
    )
