"""What the README says about a LoRA in diffusers."""

from __future__ import annotations

import pytest
import torch

from tuner.adapters import create_trainable
from tuner.config.adapter import AdapterConfig
from tuner.randomness import normal_tensor
from tuner.types import Batch
from tuner_cosmos2 import plugin


@pytest.fixture
def saved(load_cosmos2, tmp_path):
    """A LoRA with random weights: the folder, and the velocity of the model that has it."""
    components = load_cosmos2()
    lora = create_trainable(
        model_type="lora",
        adapter=AdapterConfig(lora_type="standard", lora_rank=4, lora_dropout=0.0),
        lycoris=None,
        facts=plugin.describe_family(),
        denoiser=components.denoiser,
        dtype=torch.float32,
        seed=1,
    )
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            weight.copy_(0.1 * normal_tensor(weight.shape, 0, name))
    components.denoiser.eval()
    lora.export(tmp_path, {})
    return tmp_path, velocity(components)


@torch.no_grad()
def velocity(components):
    conditioning = plugin.encode_prompt(components, ["a cat"], "caption")
    x = normal_tensor((1, 16, 1, 4, 4), 0, "x")
    return plugin.compute_loss(components, Batch(x, torch.tensor([0.5]), x, conditioning)).velocity


def test_diffusers_loads_the_lora(saved, cosmos2):
    folder, expected = saved
    base = velocity(cosmos2)
    cosmos2.denoiser.load_lora_adapter(folder, weight_name="pytorch_lora_weights.safetensors", prefix="transformer")
    assert sum("lora_" in name for name, _ in cosmos2.denoiser.named_parameters()) == 32  # 16 layers, A and B
    cosmos2.denoiser.eval()
    assert (expected - base).abs().max() > 1e-2
    torch.testing.assert_close(velocity(cosmos2), expected, rtol=0, atol=1e-5)


def test_a_wrong_prefix_loads_nothing_silently(saved, cosmos2):
    cosmos2.denoiser.load_lora_adapter(saved[0], weight_name="pytorch_lora_weights.safetensors", prefix="denoiser")
    assert not any("lora_" in name for name, _ in cosmos2.denoiser.named_parameters())
