from __future__ import annotations

import pytest
import torch
from diffusers import AuraFlowTransformer2DModel

from tuner.randomness import normal_tensor
from tuner.types import Batch
from tuner_auraflow import plugin


@pytest.fixture
def conditioning(auraflow):
    with torch.no_grad():
        return plugin.encode_prompt(auraflow, ["a photo of a cat", "a dog"], "caption")


def make_batch(conditioning, sigma=(0.2, 0.9), dtype=torch.float32) -> Batch:
    x = normal_tensor((len(sigma), 4, 8, 12), 0, "x").to(dtype)
    rows = {name: tensor[: len(sigma)] for name, tensor in conditioning.items()}
    return Batch(x, torch.tensor(sigma), torch.zeros_like(x), rows)


@torch.no_grad()
def test_velocity_is_the_raw_output_at_sigma(auraflow, conditioning):
    batch = make_batch(conditioning)
    prediction = plugin.compute_loss(auraflow, batch)
    raw = auraflow.denoiser(
        batch.x, encoder_hidden_states=conditioning["prompt_embeds"], timestep=torch.tensor([0.2, 0.9])
    ).sample
    assert torch.equal(prediction.velocity, raw)
    assert prediction.weight is None
    assert not prediction.auxiliary


@torch.no_grad()
def test_time_stays_float32(auraflow, conditioning, monkeypatch):
    seen = []
    forward = AuraFlowTransformer2DModel.forward

    def record(self, *args, **kwargs):
        seen.append(kwargs["timestep"])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(AuraFlowTransformer2DModel, "forward", record)
    auraflow.denoiser.to(torch.bfloat16)
    velocity = plugin.compute_loss(auraflow, make_batch(conditioning, (0.123456, 1.0), torch.bfloat16)).velocity
    assert velocity.dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32
    assert seen[0].tolist() == pytest.approx([0.123456, 1.0], rel=1e-6)


@torch.no_grad()
def test_velocity_depends_on_text_and_time(auraflow, conditioning):
    x = make_batch(conditioning, (0.5,)).x

    def velocity(row, sigma):
        rows = {name: tensor[row : row + 1] for name, tensor in conditioning.items()}
        return plugin.compute_loss(auraflow, Batch(x, torch.tensor([sigma]), x, rows)).velocity

    base = velocity(0, 0.5)
    # Two short prompts differ in a dozen of the 120 tokens; the others are padding.
    assert (velocity(1, 0.5) - base).std() > 0.01 * base.std()
    assert (velocity(0, 0.9) - base).std() > 0.05 * base.std()
