from __future__ import annotations

import shutil

import pytest
import torch

from tuner.family.loading import ModelFolderError
from tuner.family.twins import natural_pictures
from tuner_hidream import plugin

NUMBERS = ("", "_2", "_3", "_4")


@torch.no_grad()
def test_latents_are_shifted_and_scaled(hidream):
    pictures = natural_pictures(2, 128)
    z = hidream.codec.module.encode(pictures).latent_dist.mode()
    latents = hidream.codec.encode(pictures)
    assert latents.shape == (2, 16, 16, 16)
    torch.testing.assert_close(latents, (z - 0.1159) * 0.3611)
    # Scaling there and back rounds, which the decoder magnifies: by 1e-5 on some processors.
    torch.testing.assert_close(hidream.codec.decode(latents), hidream.codec.module.decode(z).sample, rtol=0, atol=1e-4)


@torch.no_grad()
def test_latents_and_pictures_have_the_published_scale(hidream):
    pictures = natural_pictures()
    latents = hidream.codec.encode(pictures)
    assert latents.std().item() == pytest.approx(1.0, abs=0.01)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert hidream.codec.decode(latents).std().item() == pytest.approx(pictures.std().item(), rel=0.01)


@torch.no_grad()
def test_llama_may_lie_elsewhere(load_hidream, hidream_twin, hidream, tmp_path):
    folder, elsewhere = tmp_path / "model", tmp_path / "llama"
    shutil.copytree(hidream_twin, folder)
    elsewhere.mkdir()
    borrowed = {name: (folder / name).rename(elsewhere / name) for name in ("text_encoder_4", "tokenizer_4")}
    found = plugin.encode_prompt(load_hidream({"text_encoders"}, folder, borrowed=borrowed), ["a cat"], "caption")
    expected = plugin.encode_prompt(hidream, ["a cat"], "caption")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(ModelFolderError, match=r"tokenizer_4: tokenizer_config\.json is missing"):
        load_hidream({"text_encoders"}, folder)
