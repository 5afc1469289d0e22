"""The codec's latents are the autoencoder's, and facts describe them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tuner.testing.family import FamilyUnderTest, relative_error
from tuner.types import LatentCodec


@pytest.fixture
def codec(family: FamilyUnderTest) -> LatentCodec:
    """The twin's latent codec."""
    codec = family.components.codec
    assert codec is not None
    return codec


@torch.no_grad()
def test_round_trip_is_the_autoencoders(family: FamilyUnderTest, codec: LatentCodec) -> None:
    """Encoding and decoding give what the raw autoencoder gives: both scale latents alike."""
    pixels = family.pictures(2, family.side, 2 * family.side)
    latents = codec.encode(pixels)
    # Autoencoders of videos take pictures as videos of one frame.
    truth = codec.module(pixels.unsqueeze(2)).sample.squeeze(2) if latents.ndim == 5 else codec.module(pixels).sample
    error = relative_error(codec.decode(latents), truth)
    assert error <= 1e-4, f"decode(encode(pixels)) is off by {error:.1e} from the autoencoder's own reconstruction"


def test_shape_is_that_of_the_facts(family: FamilyUnderTest) -> None:
    """Channels and stride are as described, and height comes before width."""
    facts, side = family.facts, family.side
    shape = family.latents(2, side, 2 * side).shape
    assert shape[:2] == (2, facts.latent_channels)
    assert shape[-2:] == (side // facts.latent_stride, 2 * side // facts.latent_stride)


def test_latents_are_of_the_size_of_noise(family: FamilyUnderTest) -> None:
    """Normalised latents have a spread near 1; the oracle's error is measured against them."""
    spread = float(family.latents(4, family.side, family.side).std())
    assert 0.1 <= spread <= 10, f"the latents' standard deviation is {spread:.3g}"


def test_encoding_is_deterministic(family: FamilyUnderTest) -> None:
    """Latents are cached, so the same picture must give the same ones, bit for bit."""
    first, second = (family.latents(2, family.side, family.side) for _ in range(2))
    assert torch.equal(first, second), "encode samples from the posterior, or reads a random generator"


@torch.no_grad()
def test_a_batch_is_its_pictures(family: FamilyUnderTest, codec: LatentCodec) -> None:
    """No picture's latent depends on the picture beside it."""
    pixels = family.pictures(2, family.side, family.side)
    together: Tensor = codec.encode(pixels)
    alone = torch.cat([codec.encode(picture[None]) for picture in pixels])
    assert relative_error(together, alone) <= 1e-5
