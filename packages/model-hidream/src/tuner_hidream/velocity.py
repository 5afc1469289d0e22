"""HiDream's velocity: the negative of the network's raw output, at a time of 1000 * sigma.

Legend: B batch, C channels, H and W height and width in latent cells, S tokens, P cells per side of a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tuner.types import Batch, Components, Prediction
from tuner_hidream.balance import expert_usage, load_balance, recording
from tuner_hidream.text import network_arguments

TIMESTEPS = 1000.0
"""The time argument at pure noise (sigma 1)."""


def predict_velocity(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity of a noised batch of latents (B, 16, H, W)."""
    denoiser: Any = components.denoiser
    options: Any = components.options
    with recording() as routes:
        raw = denoiser(
            batch.x,
            # float32 whatever the compute dtype: bfloat16 knows only 256 of the 1000 steps.
            timesteps=batch.sigma.float() * TIMESTEPS,
            **network_arguments(batch.conditioning, batch.x.dtype),
            return_dict=False,
        )[0]
    if denoiser.training:
        raw = join_tokens(raw, batch.x, denoiser.config.patch_size)
    if not routes:
        return Prediction(-raw)
    padding = padding_of(batch.x, denoiser.config.patch_size, denoiser.max_seq)
    loss = sum(load_balance(*route, padding) for route in routes)
    usage = torch.cat([expert_usage(scores.shape[-1], chosen, padding) for scores, chosen in routes])
    return Prediction(
        -raw,
        auxiliary={"load_balance": options.hidream_load_balancing_loss_weight * loss},
        metrics={"expert_usage_min": usage.min(), "expert_usage_max": usage.max(), "expert_usage_mean": usage.mean()},
    )


def join_tokens(tokens_BCSPP: Tensor, x_BCHW: Tensor, patch: int) -> Tensor:
    """Put the tokens (B, C, S, P * P) that the network gives in training mode back in their places in the picture."""
    batch, channels, height, width = x_BCHW.shape
    rows, columns = height // patch, width // patch
    tokens = tokens_BCSPP[:, :, : rows * columns].reshape(batch, channels, rows, columns, patch, patch)
    return tokens.transpose(3, 4).reshape(batch, channels, height, width)


def padding_of(x_BCHW: Tensor, patch: int, room: int) -> slice:
    """Return which tokens are padding: pictures that are not square are filled up to all the `room` there is."""
    height, width = x_BCHW.shape[-2:]
    tokens = (height // patch) * (width // patch)
    return slice(tokens, tokens if height == width else room)
