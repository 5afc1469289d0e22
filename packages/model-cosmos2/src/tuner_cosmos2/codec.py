"""The latent codec: Wan's video autoencoder on videos of one frame.

Legend: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor


class WanCodec:
    """Normalised latents are `(z - mean) / std` by channel, of shape (B, 16, 1, H / 8, W / 8); z is the mode."""

    def __init__(self, module: AutoencoderKLWan) -> None:
        config: Any = module.config
        self.module = module
        self._mean = tuple(config.latents_mean)
        self._std = tuple(config.latents_std)

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode RGB pixels in [-1, 1] to normalised latents, in the module's dtype."""
        frames = pixels_BCHW.to(self.module.device, self.module.dtype).unsqueeze(2)
        z: Tensor = self.module.encode(frames).latent_dist.mode()
        mean, std = self._constants(z)
        return (z - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents to RGB pixels (B, 3, H, W) in [-1, 1], in the module's dtype."""
        z = latents.to(self.module.device, self.module.dtype)
        mean, std = self._constants(z)
        frames: Tensor = self.module.decode(z * std + mean, return_dict=False)[0]
        return frames.squeeze(2)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, device=like.device, dtype=like.dtype) for values in (self._mean, self._std))
        return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
