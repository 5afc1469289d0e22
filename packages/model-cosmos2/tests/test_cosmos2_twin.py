from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler

from tuner.errors import TunerError
from tuner.family.loading import ModelFolderError
from tuner.family.twins import is_twin, natural_pictures
from tuner_cosmos2 import plugin


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_twin_is_the_same_bytes_whatever_the_global_generator(cosmos2_twin, tmp_path):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = plugin.make_twin(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    first = contents(cosmos2_twin)
    assert contents(again) == first
    assert sum(map(len, first.values())) < 5_000_000
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in first)


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TunerError, match="is not empty"):
        plugin.make_twin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


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
    torch.testing.assert_close(cosmos2.codec.decode(latents), reconstruction, rtol=0, atol=1e-5)


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


def test_only_the_parts_asked_for_are_loaded_frozen_and_in_their_dtype(load_cosmos2):
    parts = load_cosmos2({"codec", "denoiser"}, dtype=torch.bfloat16, dtypes={"codec": torch.float32})
    assert (parts.text_encoders, parts.tokenizers, parts.scheduler) == ({}, {}, None)
    assert isinstance(parts.denoiser, CosmosTransformer3DModel)
    assert isinstance(parts.codec.module, AutoencoderKLWan)
    assert (parts.denoiser.dtype, parts.codec.module.dtype) == (torch.bfloat16, torch.float32)
    for module in (parts.denoiser, parts.codec.module):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    others = load_cosmos2({"text_encoders", "scheduler"})
    assert (others.denoiser, others.codec) == (None, None)
    assert set(others.text_encoders) == {"text_encoder"}
    assert isinstance(others.scheduler, FlowMatchEulerDiscreteScheduler)
    assert others.scheduler.config.use_karras_sigmas


def test_a_folder_without_the_part_is_named(load_cosmos2, tmp_path):
    with pytest.raises(ModelFolderError, match=r"transformer: config\.json is missing"):
        load_cosmos2({"denoiser"}, folder=tmp_path)
