"""Cosmos2's velocity: the network's raw output, at a time of sigma.

The model is usually written in the coordinates of EDM (Karras et al. 2022), x0 + s * noise with s in [0.002, 80]. With
sigma = s / (1 + s), the network's input (x0 + s * noise) / (1 + s) is x itself, its estimate of x0 is
x - sigma * output, so that the output is the velocity, and the weight (s^2 + 1) / s^2 on the error of x0 becomes
sigma^2 + (1 - sigma)^2 on the error of the velocity.
"""

from __future__ import annotations

from typing import Any

from tuner.flow import expand_sigma
from tuner.types import Batch, Components, Prediction


def predict_velocity(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity of a noised batch of latents (B, 16, 1, H, W)."""
    denoiser: Any = components.denoiser
    height, width = batch.x.shape[-2:]
    sigma_B = batch.sigma.float()  # whatever the compute dtype
    raw = denoiser(
        hidden_states=batch.x,
        timestep=sigma_B,
        encoder_hidden_states=batch.conditioning["prompt_embeds"].to(batch.x.dtype),
        # No picture is padded. The pipeline's mask has a zero per pixel, which the network resizes to this.
        padding_mask=batch.x.new_zeros(1, 1, height, width),
        return_dict=False,
    )[0]
    return Prediction(raw, weight=expand_sigma(sigma_B.square() + (1 - sigma_B).square(), raw))
