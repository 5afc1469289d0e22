from __future__ import annotations

import pytest
import torch

from tuner.family.twins import natural_pictures


@torch.no_grad()
def test_latents_are_the_autoencoders_times_its_factor(auraflow):
    pictures = natural_pictures(2, 128)
    z = auraflow.codec.module.encode(pictures).latent_dist.mean
    latents = auraflow.codec.encode(pictures)
    assert latents.shape == (2, 4, 16, 16)
    torch.testing.assert_close(latents, z * 0.13025)
    torch.testing.assert_close(
        auraflow.codec.decode(latents), auraflow.codec.module(pictures).sample, rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_latents_and_pictures_have_the_published_scale(auraflow):
    pictures = natural_pictures()
    latents = auraflow.codec.encode(pictures)
    assert latents.std().item() == pytest.approx(1.0, abs=0.01)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    decoded = auraflow.codec.decode(latents)
    assert decoded.std().item() == pytest.approx(pictures.std().item(), rel=0.01)
    assert auraflow.codec.decode(torch.randn(latents.shape, generator=torch.manual_seed(0))).std() < 1.0
