from __future__ import annotations

import torch
from diffusers import CosmosTransformer3DModel

from tuner.family.twins import is_twin, natural_pictures


def test_the_twin_says_that_it_is_one(cosmos2):
    assert is_twin(cosmos2.denoiser)
    config = {name: value for name, value in cosmos2.denoiser.config.items() if not name.startswith("_")}
    assert not is_twin(CosmosTransformer3DModel(**config))


@torch.no_grad()
def test_latents_are_the_autoencoders_by_its_published_mean_and_deviation(cosmos2):
    pictures = natural_pictures(2, 64)
    module = cosmos2.codec.module
    z = module.encode(pictures.unsqueeze(2)).latent_dist.mode()
    latents = cosmos2.codec.encode(pictures)
    assert latents.shape == (2, 16, 1, 8, 8)
    # The first and the last channel of Wan 2.1, as published.
    torch.testing.assert_close(latents[:, 0], (z[:, 0] + 0.7571) / 2.8184, rtol=0, atol=1e-5)
    torch.testing.assert_close(latents[:, 15], (z[:, 15] + 0.2921) / 1.9160, rtol=0, atol=1e-5)
    reconstruction = module(pictures.unsqueeze(2)).sample.squeeze(2)
    # Scaling there and back rounds, which the decoder magnifies: by 2e-5 on some processors, a 200th of a grey level.
    torch.testing.assert_close(cosmos2.codec.decode(latents), reconstruction, rtol=0, atol=1e-4)


@torch.no_grad()
def test_latents_and_pictures_have_the_published_scale(cosmos2):
    pictures = natural_pictures()
    latents = cosmos2.codec.encode(pictures)
    axes = (0, 2, 3, 4)
    assert latents.mean(dim=axes).abs().max() < 1e-3
    torch.testing.assert_close(latents.std(dim=axes), torch.ones(16), rtol=0, atol=1e-2)
    decoded = cosmos2.codec.decode(latents)  # cut at black and white, which takes some of the deviation
    assert 0.25 < decoded.std() < 0.55
    assert decoded.mean(dim=(0, 2, 3)).abs().max() < 0.2
