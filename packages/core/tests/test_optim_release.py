"""Steps within the backward pass: the same weights with hardly any gradients in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tuner.config.optimisation import OptimisationConfig
from tuner.config.optimizers import OPTIMIZERS
from tuner.optim.clipping import clip_gradients
from tuner.optim.gradients import gradients_of
from tuner.optim.optimizers import create_optimizer, set_learning_rate

EXACT = sorted(OPTIMIZERS.keys() - {"prodigy"})


def make_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 80), nn.Tanh(), nn.Linear(80, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())


def train(model, optimizer, steps, clip=0.0, parts=None, rate=1e-2):
    """Take steps; return the most gradients that were in memory at once."""
    live = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: live.append(sum(item.grad is not None for item in model.parameters()))
        )
    for step in range(steps):
        x = torch.randn(4, 64, generator=torch.Generator().manual_seed(step))
        set_learning_rate(optimizer, rate / (1 + step))
        # Without the last layers, whose weights then get no gradient.
        chosen = model if parts is None or step % 2 else model[:parts]
        (chosen(x) - 1).square().mean().backward()
        clip_gradients(model.parameters(), "value", clip)
        optimizer.step()
        optimizer.zero_grad()
    return max(live)


@pytest.mark.parametrize("parts", [None, 4], ids=["", "not all in use"])
@pytest.mark.parametrize("name", EXACT)
def test_weights_are_the_same_bit_for_bit(name, parts):
    together, alone = make_model(), make_model()
    whole = create_optimizer(name, list(together.named_parameters()), 1e-2, torch.float32)
    released = create_optimizer(name, list(alone.named_parameters()), 1e-2, torch.float32, release=True)
    assert train(together, whole, 5, parts=parts) == 6
    assert train(alone, released, 5, parts=parts) == 0
    start = make_model()
    for (name, expected), found in zip(together.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(expected, found)
        assert not torch.equal(start.get_parameter(name), found)


@pytest.mark.parametrize("parts", [None, 4], ids=["", "not all in use"])
def test_prodigy_sums_in_another_order(parts):
    together, alone = make_model(), make_model()
    arguments = {"d0": 1e-4}
    whole = create_optimizer("prodigy", list(together.named_parameters()), 1.0, torch.float32, arguments)
    released = create_optimizer("prodigy", list(alone.named_parameters()), 1.0, torch.float32, arguments, release=True)
    assert train(together, whole, 6, parts=parts, rate=5.0) == 6
    assert train(alone, released, 6, parts=parts, rate=5.0) == 0
    for expected, found in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(expected, found, rtol=1e-5, atol=1e-7)
    assert (whole.param_groups[0]["d"] > 1e-4) == (parts is None)
    assert released.param_groups[0]["d"] == pytest.approx(whole.param_groups[0]["d"], rel=1e-4)
    assert released.param_groups[0]["k"] == 7


def test_elements_are_clamped_before_the_step():
    together, alone = make_model(), make_model()
    whole = create_optimizer("torch.optim.SGD", list(together.named_parameters()), 1.0, torch.float32)
    released = create_optimizer(
        "torch.optim.SGD", list(alone.named_parameters()), 1.0, torch.float32, release=True, clip_value=1e-3
    )
    released.measure(True)
    train(together, whole, 1, clip=1e-3)
    train(alone, released, 1)
    for expected, found in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(expected, found)
    moved = max((a - b).abs().max().item() for a, b in zip(alone.parameters(), make_model().parameters(), strict=True))
    assert moved == pytest.approx(1e-2 * 1e-3, rel=1e-2)


def test_the_largest_element_is_measured_before_clamping():
    model = make_model()
    optimizer = create_optimizer(
        "optimi-adamw", list(model.named_parameters()), 1e-2, torch.float32, release=True, clip_value=1e-3
    )
    loss = (model(torch.ones(4, 64)) - 1).square().mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    for wanted in (True, False):
        optimizer.measure(wanted)
        assert optimizer.clip() == {}
        if wanted:
            loss.backward()
            assert optimizer.clip()["grad_max_abs"] == max(gradient.abs().max() for gradient in gradients)


@pytest.mark.parametrize("release", [False, True])
def test_discarded_gradients_change_nothing_and_are_freed(release):
    model = make_model()
    optimizer = create_optimizer("optimi-adamw", list(model.named_parameters()), 1e-2, torch.float32, release=release)
    x = torch.ones(4, 64)
    with gradients_of(optimizer, OptimisationConfig(optimizer="optimi-adamw")).discarded():
        (model(x) - 1).square().mean().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    fresh = make_model()
    assert all(
        torch.equal(found, expected) for found, expected in zip(model.parameters(), fresh.parameters(), strict=True)
    )
    (model(x) - 1).square().mean().backward()
    optimizer.step()
    assert not any(
        torch.equal(found, expected) for found, expected in zip(model.parameters(), fresh.parameters(), strict=True)
    )
