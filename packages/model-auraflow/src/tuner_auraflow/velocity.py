"""AuraFlow's velocity: the network's raw output, at a time of sigma."""

from __future__ import annotations

from typing import Any

from tuner.types import Batch, Components, Prediction


def predict_velocity(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity of a noised batch of latents (B, 4, H, W)."""
    denoiser: Any = components.denoiser
    raw = denoiser(
        batch.x,
        encoder_hidden_states=batch.conditioning["prompt_embeds"].to(batch.x.dtype),
        # float32 whatever the compute dtype: the network multiplies it by 1000, and bfloat16 has 8 bits.
        timestep=batch.sigma.float(),
        return_dict=False,
    )[0]
    return Prediction(raw)
