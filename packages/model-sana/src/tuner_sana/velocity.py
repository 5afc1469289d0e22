"""Sana's velocity: the network's raw output, at a time of 1000 * sigma."""

from __future__ import annotations

from typing import Any

from tuner.types import Batch, Components, Prediction

TIMESTEPS = 1000.0
"""The time argument at pure noise (sigma 1), before the network's own `timestep_scale`."""


def predict_velocity(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity of a noised batch of latents (B, 32, H, W)."""
    denoiser: Any = components.denoiser
    # float32 whatever the compute dtype: bfloat16 knows only 256 of the 1000 steps.
    timestep_B = batch.sigma.float() * (TIMESTEPS * denoiser.config.timestep_scale)
    raw = denoiser(
        batch.x,
        encoder_hidden_states=batch.conditioning["prompt_embeds"].to(batch.x.dtype),
        encoder_attention_mask=batch.conditioning["prompt_attention_mask"],
        timestep=timestep_B,
        return_dict=False,
    )[0]
    # A network that was built to predict a variance too has it in its second half.
    return Prediction(raw[:, : batch.x.shape[1]])
