"""The proof of the family's convention: a network that knows the answer, sampled by the family's own pipeline."""

from __future__ import annotations

import pytest
import torch

from tuner.randomness import normal_tensor
from tuner_cosmos2 import plugin

SHAPE = (1, 16, 1, 4, 6)


class Oracle:
    """In the denoiser's place: gives the velocity that leads from any x straight to x0, and notes its inputs."""

    def __init__(self, scheduler, x0) -> None:
        self.scheduler, self.x0 = scheduler, x0
        self.calls: list[dict] = []
        self.levels: list[float] = []

    def __call__(self, hidden_states, **inputs):
        level = float(self.scheduler.sigmas[self.scheduler.step_index or 0])
        self.levels.append(level)
        self.calls.append(inputs)
        sigma = level / (1 + level)
        return ((hidden_states.double() - self.x0) / sigma,)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_oracle(cosmos2, monkeypatch, steps, guidance):
    with torch.no_grad():
        positive, negative = (plugin.encode_prompt(cosmos2, [text], "caption") for text in ("a cat", "blurry"))
    x0, noise = normal_tensor(SHAPE, 0, "clean latent"), normal_tensor(SHAPE, 0, "noise")
    oracle = Oracle(cosmos2.scheduler, x0)
    monkeypatch.setattr(cosmos2.denoiser, "forward", oracle)
    sampler = plugin.validation_pipeline(cosmos2)
    assert sampler.pipeline.transformer is cosmos2.denoiser
    latents = sampler.pipeline(
        **sampler.arguments(positive, negative if guidance > 1 else None),
        **{sampler.guidance_argument: guidance},
        height=32,
        width=48,
        num_inference_steps=steps,
        latents=noise,
        output_type="latent",
    ).images
    # The sampler starts at 80 * noise, which holds nothing of x0, and stops at its last level.
    last = float(cosmos2.scheduler.sigmas[-1])
    assert last == pytest.approx(80 if steps == 1 else 0.002, rel=1e-4)
    expected = x0 + last * (noise - x0 / 80)
    assert (latents - expected[:, :, 0]).abs().max() <= 1e-5 * expected.abs().max()
    assert oracle.levels[0] == pytest.approx(80, rel=1e-5)
    sources = [positive] if guidance == 1 else [positive, negative]
    assert len(oracle.calls) == steps * len(sources)
    for number, (call, level) in enumerate(zip(oracle.calls, oracle.levels, strict=True)):
        assert call["timestep"].tolist() == pytest.approx([level / (1 + level)], rel=1e-6)
        assert torch.equal(call["encoder_hidden_states"], sources[number % len(sources)]["prompt_embeds"])
        assert not call["padding_mask"].any()
