"""Latent codecs of the common kind: an autoencoder, a shift and a scale.

Legend: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class ScaledCodec:
    """Normalised latents are `(z - shift) * scale`, both constants taken from the autoencoder's configuration.

    Fits diffusers' `AutoencoderKL` (z is the mode of its distribution, so encoding draws nothing) and
    `AutoencoderDC` (z is its output). An autoencoder that has no shift has a shift of 0.
    """

    def __init__(self, module: nn.Module) -> None:
        config: Any = module.config
        self.module = module
        self.scale = float(config.scaling_factor)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode RGB pixels in [-1, 1] to normalised latents (B, C, H / stride, W / stride), in the module's dtype."""
        module: Any = self.module
        encoded = module.encode(pixels_BCHW.to(module.device, module.dtype))
        z = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        return (z - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents to RGB pixels (B, 3, H, W), nominally in [-1, 1], in the module's dtype."""
        module: Any = self.module
        z = latents.to(module.device, module.dtype) / self.scale + self.shift
        return module.decode(z, return_dict=False)[0]
