from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, OmniGenTransformer2DModel

from tuner.errors import TunerError
from tuner.family.twins import natural_pictures
from tuner_omnigen import plugin


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_twin_is_the_same_bytes_whatever_the_global_generator(omnigen_twin, tmp_path):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = plugin.make_twin(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    first = contents(omnigen_twin)
    assert contents(again) == first
    assert sum(map(len, first.values())) < 5_000_000
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in first)


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TunerError, match="is not empty"):
        plugin.make_twin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_index_names_the_published_classes(omnigen_twin):
    index = json.loads((omnigen_twin / "model_index.json").read_text(encoding="utf-8"))
    assert {name: value for name, value in index.items() if name != "_diffusers_version"} == {
        "_class_name": "OmniGenPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "tokenizer": ["transformers", "LlamaTokenizer"],
        "transformer": ["diffusers", "OmniGenTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


@torch.no_grad()
def test_latents_are_the_autoencoders_times_its_factor(omnigen):
    pictures = natural_pictures(2, 128)
    z = omnigen.codec.module.encode(pictures).latent_dist.mode()
    latents = omnigen.codec.encode(pictures)
    assert latents.shape == (2, 4, 16, 16)
    torch.testing.assert_close(latents, z * 0.13025)
    torch.testing.assert_close(omnigen.codec.decode(latents), omnigen.codec.module(pictures).sample, rtol=0, atol=1e-5)
    assert omnigen.codec.encode(natural_pictures()).std().item() == pytest.approx(1.0, abs=0.02)


def test_only_the_parts_asked_for_are_loaded_frozen_and_in_their_dtype(load_omnigen):
    parts = load_omnigen({"codec", "denoiser"}, dtype=torch.bfloat16, dtypes={"codec": torch.float32})
    assert (parts.text_encoders, parts.tokenizers, parts.scheduler) == ({}, {}, None)
    assert isinstance(parts.denoiser, OmniGenTransformer2DModel)
    assert isinstance(parts.codec.module, AutoencoderKL)
    assert (parts.denoiser.dtype, parts.codec.module.dtype) == (torch.bfloat16, torch.float32)
    for module in (parts.denoiser, parts.codec.module):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    others = load_omnigen({"text_encoders", "scheduler"})
    assert (others.denoiser, others.codec, others.text_encoders) == (None, None, {})
    assert isinstance(others.scheduler, FlowMatchEulerDiscreteScheduler)
    assert (others.scheduler.config.invert_sigmas, others.scheduler.config.num_train_timesteps) == (True, 1)
