"""A tiny autoencoder for previews, as twins are: the published architecture with few random weights."""

from __future__ import annotations

from pathlib import Path

from tuner.randomness import seeded_torch


def write_tiny_autoencoder(folder: Path, latent_channels: int, latent_stride: int) -> Path:
    """Write diffusers' `AutoencoderTiny` for latents of a family and return its folder.

    Args:
        folder: Where it is written.
        latent_channels: Channels of a latent.
        latent_stride: Pixels per latent cell along each side, a power of two.
    """
    from diffusers import AutoencoderTiny

    levels = latent_stride.bit_length()
    with seeded_torch(0, "tiny autoencoder"):
        autoencoder = AutoencoderTiny(
            latent_channels=latent_channels,
            encoder_block_out_channels=(4,) * levels,
            decoder_block_out_channels=(4,) * levels,
            num_encoder_blocks=(1,) * levels,
            num_decoder_blocks=(1,) * levels,
        )
    autoencoder.save_pretrained(folder, safe_serialization=True)
    return folder
