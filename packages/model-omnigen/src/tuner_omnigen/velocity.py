"""OmniGen's velocity: the negative of the network's output, at a time of 1 - sigma."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tuner.types import Batch, Components, Prediction
from tuner_omnigen.facts import PADDING


def predict_velocity(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity of a noised batch of latents (B, 4, H, W)."""
    denoiser: Any = components.denoiser
    height, width = batch.x.shape[-2:]
    patch = denoiser.config.patch_size
    raw = denoiser(
        batch.x,
        # The network's clock runs from noise (0) to picture (1). float32, since bfloat16 is coarse near 1.
        timestep=1 - batch.sigma.float(),
        input_img_latents=[],
        input_image_sizes={},
        **lay_out(batch.conditioning["input_ids"], (height // patch) * (width // patch)),
        return_dict=False,
    )[0]
    return Prediction(-raw)


def lay_out(input_ids_BL: Tensor, image_tokens: int) -> dict[str, Tensor]:
    """Lay out one sequence per row: padding, text, a token for the time, the picture.

    Text and time see what comes before them, the picture sees everything, and nothing sees padding, which moves to
    the front so that no gap parts a short prompt from its picture. Positions count from the front of the row: the
    network turns by differences of positions only, and takes one row of them for the whole batch.

    Args:
        input_ids_BL: Token ids; shorter rows end with `PADDING`.
        image_tokens: Tokens of the picture.

    Returns:
        The network's `input_ids` (B, L), `attention_mask` (B, 1, S, S), True where a token (the third dimension)
        sees another, and `position_ids` (1, S), where S = L + 1 + image_tokens.
    """
    text = input_ids_BL.shape[1]
    length_B1 = (input_ids_BL != PADDING).sum(dim=1, keepdim=True)
    moved_BL = (torch.arange(text, device=input_ids_BL.device) + length_B1) % text
    input_ids_BL = input_ids_BL.gather(1, moved_BL)

    position_S = torch.arange(text + 1 + image_tokens, device=input_ids_BL.device)
    in_order_SS = (position_S <= position_S[:, None]) | (position_S[:, None] > text)
    real_BS = F.pad(input_ids_BL != PADDING, (0, 1 + image_tokens), value=True)
    # A row that sees nothing would be NaN, so padding sees everything; nobody sees what it makes of it.
    mask_BSS = (in_order_SS & real_BS[:, None, :]) | ~real_BS[:, :, None]
    return {
        "input_ids": input_ids_BL.clamp_min(0),
        "attention_mask": mask_BSS[:, None],
        "position_ids": position_S[None],
    }
