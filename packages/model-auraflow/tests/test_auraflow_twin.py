from __future__ import annotations

import pytest
import torch
from diffusers import AuraFlowTransformer2DModel, AutoencoderKL, FlowMatchEulerDiscreteScheduler

from tuner.errors import TunerError
from tuner.family.loading import ModelFolderError
from tuner.family.twins import natural_pictures
from tuner_auraflow import plugin


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_twin_is_the_same_bytes_whatever_the_global_generator(auraflow_twin, tmp_path):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = plugin.make_twin(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    first = contents(auraflow_twin)
    assert contents(again) == first
    assert sum(map(len, first.values())) < 5_000_000
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in first)


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TunerError, match="is not empty"):
        plugin.make_twin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


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


def test_only_the_parts_asked_for_are_loaded_frozen_and_in_their_dtype(load_auraflow):
    parts = load_auraflow({"codec", "denoiser"}, dtype=torch.bfloat16, dtypes={"codec": torch.float32})
    assert (parts.text_encoders, parts.tokenizers, parts.scheduler) == ({}, {}, None)
    assert isinstance(parts.denoiser, AuraFlowTransformer2DModel)
    assert isinstance(parts.codec.module, AutoencoderKL)
    assert (parts.denoiser.dtype, parts.codec.module.dtype) == (torch.bfloat16, torch.float32)
    for module in (parts.denoiser, parts.codec.module):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    others = load_auraflow({"text_encoders", "scheduler"})
    assert (others.denoiser, others.codec) == (None, None)
    assert set(others.text_encoders) == {"text_encoder"}
    assert isinstance(others.scheduler, FlowMatchEulerDiscreteScheduler)
    assert others.scheduler.config.shift == 1.73


def test_a_folder_without_the_part_is_named(load_auraflow, tmp_path):
    with pytest.raises(ModelFolderError, match=r"transformer: config\.json is missing"):
        load_auraflow({"denoiser"}, folder=tmp_path)
