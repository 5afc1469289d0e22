from __future__ import annotations

import pytest
import torch
from diffusers import SanaTransformer2DModel

from tuner.randomness import normal_tensor
from tuner.types import Batch, Components
from tuner_sana import plugin


@pytest.fixture
def conditioning(sana):
    with torch.no_grad():
        return plugin.encode_prompt(sana, ["a photo of a cat", "a dog"], "caption")


def make_batch(conditioning, sigma=(0.2, 0.9), dtype=torch.float32) -> Batch:
    x = normal_tensor((len(sigma), 32, 4, 6), 0, "x").to(dtype)
    rows = {name: tensor[: len(sigma)] for name, tensor in conditioning.items()}
    return Batch(x, torch.tensor(sigma), torch.zeros_like(x), rows)


@torch.no_grad()
def test_velocity_is_the_raw_output_at_a_thousand_sigma(sana, conditioning):
    batch = make_batch(conditioning)
    prediction = plugin.compute_loss(sana, batch)
    raw = sana.denoiser(
        batch.x,
        encoder_hidden_states=conditioning["prompt_embeds"],
        encoder_attention_mask=conditioning["prompt_attention_mask"],
        timestep=torch.tensor([200.0, 900.0]),
    ).sample
    assert torch.equal(prediction.velocity, raw)
    assert prediction.weight is None
    assert not prediction.auxiliary


@torch.no_grad()
def test_time_is_scaled_as_the_configuration_says_and_stays_float32(sana, conditioning, monkeypatch):
    seen = []
    forward = SanaTransformer2DModel.forward

    def record(self, *args, **kwargs):
        seen.append(kwargs["timestep"])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SanaTransformer2DModel, "forward", record)
    sana.denoiser.to(torch.bfloat16).register_to_config(timestep_scale=0.001)
    plugin.compute_loss(sana, make_batch(conditioning, (0.123456, 1.0), torch.bfloat16))
    assert seen[0].dtype == torch.float32
    assert seen[0].tolist() == pytest.approx([0.123456, 1.0], rel=1e-6)


@torch.no_grad()
def test_a_predicted_variance_is_dropped(sana, conditioning):
    config = {name: value for name, value in sana.denoiser.config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    denoiser = SanaTransformer2DModel(**{**config, "out_channels": 64}).eval()
    batch = make_batch(conditioning)
    velocity = plugin.compute_loss(Components(sana.folder, sana.options, denoiser=denoiser), batch).velocity
    raw = denoiser(
        batch.x,
        encoder_hidden_states=conditioning["prompt_embeds"],
        encoder_attention_mask=conditioning["prompt_attention_mask"],
        timestep=1000 * batch.sigma,
    ).sample
    assert raw.shape[1] == 64
    assert torch.equal(velocity, raw[:, :32])


@torch.no_grad()
def test_velocity_depends_on_text_and_time(sana, conditioning):
    x = make_batch(conditioning, (0.5,)).x

    def velocity(row, sigma):
        rows = {name: tensor[row : row + 1] for name, tensor in conditioning.items()}
        return plugin.compute_loss(sana, Batch(x, torch.tensor([sigma]), x, rows)).velocity

    base = velocity(0, 0.5)
    assert (velocity(1, 0.5) - base).std() > 0.05 * base.std()
    assert (velocity(0, 0.9) - base).std() > 0.05 * base.std()
