from __future__ import annotations

import math

import pytest
import torch
from diffusers import CosmosTransformer3DModel
from diffusers.models.transformers import transformer_cosmos

from tuner.flow import mix, velocity_loss, velocity_target
from tuner.randomness import normal_tensor
from tuner.types import Batch
from tuner_cosmos2 import plugin
from tuner_cosmos2.loading import do_without_torchvision

SHAPE = (2, 16, 1, 4, 6)


@pytest.fixture
def conditioning(cosmos2):
    with torch.no_grad():
        return plugin.encode_prompt(cosmos2, ["a photo of a cat", "a dog"], "caption")


def make_batch(conditioning, sigma=(0.2, 0.9), dtype=torch.float32) -> Batch:
    x0, noise, sigma_B = normal_tensor(SHAPE, 0, "x0"), normal_tensor(SHAPE, 0, "noise"), torch.tensor(sigma)
    return Batch(mix(x0, noise, sigma_B).to(dtype), sigma_B, velocity_target(x0, noise), conditioning)


@torch.no_grad()
def test_velocity_is_the_raw_output_at_sigma(cosmos2, conditioning):
    batch = make_batch(conditioning)
    prediction = plugin.compute_loss(cosmos2, batch)
    raw = cosmos2.denoiser(
        batch.x,
        timestep=torch.tensor([0.2, 0.9]),
        encoder_hidden_states=conditioning["prompt_embeds"],
        padding_mask=torch.zeros(1, 1, 32, 48),  # a zero per pixel, as the pipeline gives it
    ).sample
    assert torch.equal(prediction.velocity, raw)
    assert not prediction.auxiliary


@torch.no_grad()
def test_the_loss_is_that_of_edm(cosmos2, conditioning):
    """In the coordinates of Karras et al.: x0 + s * noise, with a weight of (s^2 + 1) / s^2 on the error of x0."""
    batch = make_batch(conditioning)
    prediction = plugin.compute_loss(cosmos2, batch)
    loss = velocity_loss(prediction.velocity, batch.target, prediction.weight)
    assert prediction.weight.flatten().tolist() == pytest.approx([0.2**2 + 0.8**2, 0.9**2 + 0.1**2])
    x0, noise = normal_tensor(SHAPE, 0, "x0"), normal_tensor(SHAPE, 0, "noise")
    for row, sigma in enumerate((0.2, 0.9)):
        s = sigma / (1 - sigma)
        x_s = x0[row : row + 1] + s * noise[row : row + 1]
        raw = cosmos2.denoiser(
            x_s / (1 + s),
            timestep=torch.tensor([s / (1 + s)]),
            encoder_hidden_states=conditioning["prompt_embeds"][row : row + 1],
            padding_mask=torch.zeros(1, 1, 32, 48),
        ).sample
        estimate = (x_s - s * raw) / (1 + s)
        expected = (s**2 + 1) / s**2 * (estimate - x0[row : row + 1]).square().mean()
        assert loss[row].item() == pytest.approx(expected.item(), rel=1e-4)


def test_sigma_of_the_published_density_is_the_cores():
    """ln s ~ N(0, 1) is sigma ~ sigmoid(N(0, 1)): the same normal draw gives the same sigma."""
    for draw in (-2.0, 0.0, 1.5):
        s = math.exp(draw)
        assert s / (1 + s) == pytest.approx(1 / (1 + math.exp(-draw)))


@torch.no_grad()
def test_time_stays_float32(cosmos2, conditioning, monkeypatch):
    seen = []
    forward = CosmosTransformer3DModel.forward

    def record(self, *args, **kwargs):
        seen.append(kwargs["timestep"])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(CosmosTransformer3DModel, "forward", record)
    cosmos2.denoiser.to(torch.bfloat16)
    prediction = plugin.compute_loss(cosmos2, make_batch(conditioning, (0.123456, 1.0), torch.bfloat16))
    assert seen[0].dtype == prediction.weight.dtype == torch.float32
    assert prediction.velocity.dtype == torch.bfloat16
    assert seen[0].tolist() == pytest.approx([0.123456, 1.0], rel=1e-6)


def test_the_padding_mask_is_resized_to_its_nearest_values(monkeypatch):
    monkeypatch.delattr(transformer_cosmos, "transforms", raising=False)
    do_without_torchvision()
    stand_in = transformer_cosmos.transforms
    image = torch.arange(64.0).view(1, 1, 8, 8)
    resized = stand_in.functional.resize(image, [2, 4], interpolation=stand_in.InterpolationMode.NEAREST)
    assert torch.equal(resized, image[:, :, ::4, ::2])
    do_without_torchvision()
    assert transformer_cosmos.transforms is stand_in  # what is there is left alone
