"""The proof of the family's convention: a network that knows the answer, sampled by the family's own pipeline."""

from __future__ import annotations

import pytest
import torch

from tuner.randomness import normal_tensor
from tuner_auraflow import plugin

SHAPE = (1, 4, 8, 12)


class Oracle:
    """In the denoiser's place: gives the velocity that leads from any x straight to x0, and notes its inputs."""

    def __init__(self, scheduler, x0) -> None:
        self.scheduler, self.x0 = scheduler, x0
        self.calls: list[dict] = []
        self.sigmas: list[float] = []

    def __call__(self, hidden_states, **inputs):
        sigma = self.scheduler.sigmas[self.scheduler.step_index or 0]
        self.sigmas.append(float(sigma))
        self.calls.append(inputs)
        return ((hidden_states - self.x0) / sigma,)


@pytest.fixture
def conditionings(auraflow):
    with torch.no_grad():
        return (
            plugin.encode_prompt(auraflow, ["a cat"], "caption"),
            plugin.encode_prompt(auraflow, ["blurry"], "negative"),
        )


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_oracle(auraflow, conditionings, monkeypatch, steps, guidance):
    x0 = normal_tensor(SHAPE, 0, "clean latent")
    oracle = Oracle(auraflow.scheduler, x0)
    monkeypatch.setattr(auraflow.denoiser, "forward", oracle)
    sampler = plugin.validation_pipeline(auraflow)
    assert sampler.pipeline.transformer is auraflow.denoiser
    latents = sampler.pipeline(
        **sampler.arguments(conditionings[0], conditionings[1] if guidance > 1 else None),
        **{sampler.guidance_argument: guidance},
        height=64,
        width=96,
        num_inference_steps=steps,
        latents=normal_tensor(SHAPE, 0, "noise"),
        output_type="latent",
    ).images
    assert (latents - x0).abs().max() <= 1e-5
    assert len(oracle.calls) == steps
    positive, negative = conditionings
    sources = [positive] if guidance == 1 else [negative, positive]
    for call, sigma in zip(oracle.calls, oracle.sigmas, strict=True):
        assert call["timestep"].tolist() == pytest.approx([sigma] * len(sources), rel=1e-6)
        assert torch.equal(call["encoder_hidden_states"], torch.cat([source["prompt_embeds"] for source in sources]))
        assert "encoder_attention_mask" not in call


def test_pictures_are_what_the_codec_decodes(auraflow, conditionings, monkeypatch):
    x0 = normal_tensor(SHAPE, 0, "clean latent")
    monkeypatch.setattr(auraflow.denoiser, "forward", Oracle(auraflow.scheduler, x0))
    sampler = plugin.validation_pipeline(auraflow)
    picture = sampler.pipeline(
        **sampler.arguments(conditionings[0], None),
        guidance_scale=1.0,
        height=64,
        width=96,
        num_inference_steps=2,
        latents=normal_tensor(SHAPE, 0, "noise"),
        output_type="pt",
    ).images
    with torch.no_grad():
        expected = (auraflow.codec.decode(x0) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-5)
