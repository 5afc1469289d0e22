"""Slicing and tiling: what an autoencoder has of it, and what it does to latents and their keys."""

import logging

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from tuner.config.memory import MemoryConfig
from tuner.family.codecs import ScaledCodec
from tuner.training.codec_memory import spare_codec

TILE = 32


@pytest.fixture
def codec():
    torch.manual_seed(0)
    module = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2, sample_size=TILE)
    return ScaledCodec(module.eval().requires_grad_(False))


def pictures(side):
    return torch.tanh(torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1)))


def test_nothing_is_on_that_was_not_asked_for(codec, caplog):
    caplog.set_level(logging.INFO, logger="tuner")
    spare_codec(codec, MemoryConfig())
    assert not codec.module.use_slicing
    assert not codec.module.use_tiling
    assert not caplog.records


def test_slices_are_encoded_one_by_one(codec):
    alone = torch.cat([codec.encode(picture[None]) for picture in pictures(TILE)])
    sizes = []
    codec.module.encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    spare_codec(codec, MemoryConfig(vae_enable_slicing=True))
    assert torch.equal(codec.encode(pictures(TILE)), alone)
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize(("side", "largest"), [(TILE, TILE), (2 * TILE, TILE)])
def test_tiles_are_as_large_as_the_autoencoder_says(codec, side, largest):
    """Pictures of one tile are encoded as they are; larger ones in tiles, which gives other numbers."""
    whole = codec.encode(pictures(side))
    sizes = []
    codec.module.encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-1]))
    spare_codec(codec, MemoryConfig(vae_enable_tiling=True))
    tiled = codec.encode(pictures(side))
    assert max(sizes) == largest
    assert tiled.shape == whole.shape
    assert torch.equal(tiled, whole) is (side == TILE)


def test_what_the_autoencoder_has_is_said(codec, caplog):
    class Plain(nn.Module):
        pass

    caplog.set_level(logging.INFO, logger="tuner")
    both = MemoryConfig(vae_enable_slicing=True, vae_enable_tiling=True)
    spare_codec(codec, both)
    plain = ScaledCodec.__new__(ScaledCodec)
    plain.module = Plain()
    spare_codec(plain, both)
    del codec.module.use_tiling  # as in diffusers' classes that have slicing alone
    spare_codec(codec, MemoryConfig(vae_enable_tiling=True))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "autoencoder AutoencoderKL: slicing on, tiling on for pictures of more than 32 pixels along a side"),
        ("WARNING", "autoencoder Plain: slicing not available, tiling not available"),
        ("WARNING", "autoencoder AutoencoderKL: tiling not available"),
    ]
