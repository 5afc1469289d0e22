"""The proof of the family's convention, and that sampling from token ids is diffusers' sampling from prompts."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.pipelines.omnigen import pipeline_omnigen

from tuner.randomness import normal_tensor
from tuner_omnigen import plugin

SHAPE = (1, 4, 16, 24)
SIZE = {"height": 128, "width": 192}
# diffusers' pipeline has this negative prompt fixed.
PUBLISHED_NEGATIVE = (
    "low quality, jpeg artifacts, ugly, duplicate, morbid, mutilated, extra fingers, mutated hands, poorly drawn "
    "hands, poorly drawn face, mutation, deformed, blurry, dehydrated, bad anatomy, bad proportions, extra limbs, "
    "cloned face, disfigured, gross proportions, malformed limbs, missing arms, missing legs, extra arms, extra legs, "
    "fused fingers, too many fingers."
)


def sample(omnigen, prompt, negative, **settings):
    sampler = plugin.validation_pipeline(omnigen)
    assert sampler.pipeline.transformer is omnigen.denoiser
    conditionings = [
        plugin.encode_prompt(omnigen, [prompt], "caption"),
        None if negative is None else plugin.encode_prompt(omnigen, [negative], "negative"),
    ]
    defaults = {"num_inference_steps": 2, "latents": normal_tensor(SHAPE, 0, "noise"), "output_type": "latent", **SIZE}
    return sampler.pipeline(**sampler.arguments(*conditionings), **{**defaults, **settings}).images


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_oracle(omnigen, monkeypatch, steps, guidance):
    x0 = normal_tensor(SHAPE, 0, "clean latent")
    times = []

    def oracle(hidden_states, timestep, **inputs):
        times.append(timestep.tolist())
        sigma = 1 - timestep.view(-1, 1, 1, 1)
        return (-(hidden_states - x0) / sigma,)

    monkeypatch.setattr(omnigen.denoiser, "forward", oracle)
    negative = "blurry" if guidance > 1 else None
    latents = sample(omnigen, "a cat", negative, guidance_scale=guidance, num_inference_steps=steps)
    assert (latents - x0).abs().max() <= 1e-5
    assert times == [pytest.approx([step / steps] * 2, abs=1e-6) for step in range(steps)]


@pytest.mark.parametrize(
    ("prompt", "guidance"),
    [("a cat", 1.0), ("a long and winding prompt about a cat and a dog, " * 12, 2.5)],
    ids=["no guidance", "guidance"],
)
def test_pictures_are_those_of_the_published_pipeline(
    omnigen, omnigen_twin, published_processor, monkeypatch, prompt, guidance
):
    # Under guidance the prompt is the longer one: diffusers takes its positions for the negative prompt, too.
    monkeypatch.setattr(pipeline_omnigen, "OmniGenMultiModalProcessor", published_processor, raising=False)
    published = diffusers.OmniGenPipeline.from_pretrained(omnigen_twin)
    published.set_progress_bar_config(disable=True)
    settings = {"guidance_scale": guidance, "num_inference_steps": 3, "output_type": "pt"}
    expected = published(prompt=[prompt], latents=normal_tensor(SHAPE, 0, "noise"), **SIZE, **settings).images
    pictures = sample(omnigen, prompt, PUBLISHED_NEGATIVE if guidance > 1 else None, **settings)
    assert expected.std() > 0.05
    torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-5)


def test_the_negative_prompt_is_heard(omnigen):
    one, other = (sample(omnigen, "a cat", negative, guidance_scale=4.0) for negative in ("blurry", "a dog at night"))
    assert (one - other).std() > 0.01 * one.std()


def test_without_a_negative_prompt_no_guidance_counts(omnigen):
    one, other = (sample(omnigen, "a cat", None, guidance_scale=guidance) for guidance in (0.0, 1.0))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_several_prompts_at_once_are_what_they_are_alone(omnigen):
    sampler = plugin.validation_pipeline(omnigen)
    prompts, noise = ["a cat", "a photo of a dog on a wooden table"], normal_tensor((2, *SHAPE[1:]), 0, "noise")
    conditionings = (
        plugin.encode_prompt(omnigen, prompts, "caption"),
        plugin.encode_prompt(omnigen, [""] * 2, "negative"),
    )
    together = sampler.pipeline(
        **sampler.arguments(*conditionings), **SIZE, guidance_scale=3.0, num_inference_steps=2, latents=noise,
        output_type="latent",
    ).images  # fmt: skip
    for row, prompt in enumerate(prompts):
        alone = sample(omnigen, prompt, "", guidance_scale=3.0, latents=noise[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)
