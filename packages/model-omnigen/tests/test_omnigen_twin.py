from __future__ import annotations

import json

import pytest
import torch

from tuner.family.twins import natural_pictures


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
