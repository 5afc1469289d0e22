"""The proof of the family's convention: a network that knows the answer, sampled by the family's own pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from tuner.randomness import normal_tensor
from tuner_hidream import plugin

EULER = "euler"
UNIPC = "unipc"


class Oracle:
    """In the denoiser's place: gives the output that leads from any x straight to x0, and notes its inputs."""

    def __init__(self, scheduler, x0) -> None:
        self.scheduler, self.x0 = scheduler, x0
        self.calls: list[dict] = []
        self.sigmas: list[float] = []

    def __call__(self, hidden_states, **inputs):
        sigma = self.scheduler.sigmas[self.scheduler.step_index or 0]
        self.sigmas.append(float(sigma))
        self.calls.append(inputs)
        return (-(hidden_states - self.x0) / sigma,)


@pytest.fixture
def conditionings(hidream):
    with torch.no_grad():
        return plugin.encode_prompt(hidream, ["a cat"], "caption"), plugin.encode_prompt(
            hidream, ["blurry"], "negative"
        )


def sample(hidream, conditionings, oracle, monkeypatch, *, steps=2, guidance=1.0, height=64, width=96, **more):
    monkeypatch.setattr(hidream.denoiser, "forward", oracle)
    sampler = plugin.validation_pipeline(hidream)
    assert sampler.pipeline.transformer is hidream.denoiser
    sampler.pipeline.set_progress_bar_config(disable=True)
    return sampler.pipeline(
        **sampler.arguments(*conditionings),
        **{sampler.guidance_argument: guidance},
        height=height,
        width=width,
        num_inference_steps=steps,
        latents=normal_tensor(oracle.x0.shape, 0, "noise"),
        **more,
    ).images


@pytest.mark.parametrize("kind", [EULER, UNIPC])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_oracle(hidream, conditionings, monkeypatch, steps, guidance, kind):
    if kind == UNIPC:  # what the published full model is sampled with
        hidream.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    x0 = normal_tensor((1, 16, 8, 12), 0, "clean latent")
    oracle = Oracle(hidream.scheduler, x0)
    latents = sample(hidream, conditionings, oracle, monkeypatch, steps=steps, guidance=guidance, output_type="latent")
    assert (latents - x0).abs().max() <= 1e-5
    assert len(oracle.calls) == steps
    positive, negative = conditionings
    sources = [positive] if guidance == 1 else [negative, positive]
    for call, sigma in zip(oracle.calls, oracle.sigmas, strict=True):
        time = 1000 * sigma if kind == EULER else int(1000 * sigma)
        assert call["timesteps"].tolist() == pytest.approx([time] * len(sources), rel=1e-6)
        for argument, name, rows in (
            ("encoder_hidden_states_t5", "prompt_embeds_t5", 0),
            ("encoder_hidden_states_llama3", "prompt_embeds_llama3", 1),
            ("pooled_embeds", "pooled_prompt_embeds", 0),
        ):
            expected = torch.cat([source[name] for source in sources])
            assert torch.equal(call[argument].movedim(rows, 0), expected)


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (64, 96), (80, 48), (1024, 1024), (1280, 768), (720, 1456), (2048, 512)]
)
def test_pictures_have_the_size_asked_for(hidream, conditionings, monkeypatch, height, width):
    oracle = Oracle(hidream.scheduler, normal_tensor((1, 16, height // 8, width // 8), 0, "clean latent"))
    latents = sample(
        hidream, conditionings, oracle, monkeypatch, height=height, width=width, output_type="latent", steps=1
    )
    assert latents.shape == (1, 16, height // 8, width // 8)


def test_pictures_are_what_the_codec_decodes(hidream, conditionings, monkeypatch):
    oracle = Oracle(hidream.scheduler, normal_tensor((1, 16, 8, 12), 0, "clean latent"))
    picture = sample(hidream, conditionings, oracle, monkeypatch, output_type="pt")
    with torch.no_grad():
        expected = (hidream.codec.decode(oracle.x0) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-5)
