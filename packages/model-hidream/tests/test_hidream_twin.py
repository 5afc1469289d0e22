from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, HiDreamImageTransformer2DModel

from tuner.errors import TunerError
from tuner.family.loading import ModelFolderError
from tuner.family.twins import natural_pictures
from tuner_hidream import plugin

NUMBERS = ("", "_2", "_3", "_4")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_twin_is_the_same_bytes_whatever_the_global_generator(hidream_twin, tmp_path):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = plugin.make_twin(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    first = contents(hidream_twin)
    assert contents(again) == first
    assert sum(map(len, first.values())) < 6_000_000
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in first)


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TunerError, match="is not empty"):
        plugin.make_twin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@torch.no_grad()
def test_latents_are_shifted_and_scaled(hidream):
    pictures = natural_pictures(2, 128)
    z = hidream.codec.module.encode(pictures).latent_dist.mode()
    latents = hidream.codec.encode(pictures)
    assert latents.shape == (2, 16, 16, 16)
    torch.testing.assert_close(latents, (z - 0.1159) * 0.3611)
    torch.testing.assert_close(hidream.codec.decode(latents), hidream.codec.module.decode(z).sample, rtol=0, atol=1e-5)


@torch.no_grad()
def test_latents_and_pictures_have_the_published_scale(hidream):
    pictures = natural_pictures()
    latents = hidream.codec.encode(pictures)
    assert latents.std().item() == pytest.approx(1.0, abs=0.01)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert hidream.codec.decode(latents).std().item() == pytest.approx(pictures.std().item(), rel=0.01)


def test_only_the_parts_asked_for_are_loaded_frozen_and_in_their_dtype(load_hidream):
    parts = load_hidream({"codec", "denoiser"}, dtype=torch.bfloat16, dtypes={"codec": torch.float32})
    assert (parts.text_encoders, parts.tokenizers, parts.scheduler) == ({}, {}, None)
    assert isinstance(parts.denoiser, HiDreamImageTransformer2DModel)
    assert isinstance(parts.codec.module, AutoencoderKL)
    assert (parts.denoiser.dtype, parts.codec.module.dtype) == (torch.bfloat16, torch.float32)
    others = load_hidream({"text_encoders", "scheduler"}, dtype=torch.bfloat16)
    assert (others.denoiser, others.codec) == (None, None)
    assert list(others.text_encoders) == [f"text_encoder{number}" for number in NUMBERS]
    assert list(others.tokenizers) == [f"tokenizer{number}" for number in NUMBERS]
    assert isinstance(others.scheduler, FlowMatchEulerDiscreteScheduler)
    for module in (parts.denoiser, parts.codec.module, *others.text_encoders.values()):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


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
