from __future__ import annotations

import pytest
import torch

from tuner.family.twins import natural_pictures


@torch.no_grad()
def test_latents_are_the_autoencoders_times_its_factor(sana):
    pictures = natural_pictures(2, 128)
    z = sana.codec.module.encode(pictures).latent
    latents = sana.codec.encode(pictures)
    assert latents.shape == (2, 32, 4, 4)
    torch.testing.assert_close(latents, z * 0.41407)
    torch.testing.assert_close(sana.codec.decode(latents), sana.codec.module(pictures).sample, rtol=0, atol=1e-5)


@torch.no_grad()
def test_latents_and_pictures_have_the_published_scale(sana):
    pictures = natural_pictures()
    latents = sana.codec.encode(pictures)
    assert latents.std().item() == pytest.approx(1.0, abs=0.01)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    decoded = sana.codec.decode(latents)
    assert decoded.std().item() == pytest.approx(pictures.std().item(), rel=0.01)
    assert sana.codec.decode(torch.randn(latents.shape, generator=torch.manual_seed(0))).std() < 1.0
