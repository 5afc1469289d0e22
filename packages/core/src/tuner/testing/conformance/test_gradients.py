"""Gradients reach what they should, and checkpointing changes none of them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from tuner.flow import velocity_loss
from tuner.randomness import normal_tensor
from tuner.testing.family import FamilyUnderTest, relative_error
from tuner.training.recomputing import recompute_blocks
from tuner.types import Components

Gradients = dict[str, Tensor]


@pytest.fixture(scope="module")
def plain(family: FamilyUnderTest) -> tuple[Tensor, Gradients]:
    """Loss and gradients in training mode, without checkpointing."""
    return _backward(family, _trained(family))


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_gradient_checkpointing_is_exact(
    family: FamilyUnderTest, plain: tuple[Tensor, Gradients], interval: int
) -> None:
    """Computing activations twice saves memory and changes neither the loss nor any gradient."""
    components = _trained(family)
    denoiser = components.denoiser
    assert denoiser is not None
    recompute_blocks(denoiser, family.facts.title, interval)
    assert denoiser.is_gradient_checkpointing, "the denoiser ignores enable_gradient_checkpointing"
    expected_loss, expected = plain
    loss, gradients = _backward(family, components)
    assert relative_error(loss, expected_loss) <= 1e-6
    lost = sorted(expected.keys() - gradients.keys())
    assert not lost, f"with checkpointing no gradient reaches {lost}"
    wrong = [name for name, gradient in expected.items() if not _close(gradients[name], gradient)]
    assert not wrong, f"checkpointing changes the gradients of {wrong}"


def test_every_nth_block_is_recomputed(family: FamilyUnderTest) -> None:
    """With an interval of n, the blocks 0, n, 2n, ... are called twice in a step, and the others once."""
    blocks = _called_twice(family, 1)
    assert len(blocks) > 1, "gradient checkpointing recomputes less than two blocks of the twin"
    assert _called_twice(family, 2) == blocks[::2]
    assert _called_twice(family, 3) == blocks[::3]


@torch.no_grad()
def test_whatever_matters_gets_a_gradient(family: FamilyUnderTest, plain: tuple[Tensor, Gradients]) -> None:
    """Changing the weights that get no gradient changes no velocity: none that matters is left out of training."""
    components = _trained(family)
    gradients = plain[1]
    batch = family.batch((0.2, 0.6))
    before = family.predict(batch, components).velocity
    left_out = {name: weight for name, weight in _parameters(components).items() if name not in gradients}
    for name, weight in left_out.items():
        weight.add_(normal_tensor(weight.shape, 0, name))
    error = relative_error(family.predict(batch, components).velocity, before)
    assert error <= 1e-6, f"weights that matter get no gradient; they are among {sorted(left_out)}"


def _called_twice(family: FamilyUnderTest, interval: int) -> list[str]:
    """Return the outermost modules that a step calls twice, in the order of their first calls."""
    components = _trained(family)
    denoiser = components.denoiser
    assert denoiser is not None
    recompute_blocks(denoiser, family.facts.title, interval)
    calls: Counter[str] = Counter()
    for name, module in denoiser.named_modules():
        module.register_forward_pre_hook(lambda _, inputs, name=name: calls.update([name]))
    family.predict(family.batch((0.5,)), components)
    once = Counter(calls)
    family.predict(family.batch((0.5,)), components).velocity.sum().backward()
    twice = [name for name, count in calls.items() if count > 2 * once[name]]
    return [name for name in twice if not any(name.startswith(f"{other}.") for other in twice)]


def _trained(family: FamilyUnderTest) -> Components:
    components = family.load("denoiser")
    assert components.denoiser is not None
    components.denoiser.train().requires_grad_(True)
    return components


def _parameters(components: Components) -> dict[str, nn.Parameter]:
    assert components.denoiser is not None
    return dict(components.denoiser.named_parameters())


def _backward(family: FamilyUnderTest, components: Components) -> tuple[Tensor, Gradients]:
    batch = family.batch((0.2, 0.6))
    prediction = family.predict(batch, components)
    loss = velocity_loss(prediction.velocity, batch.target, prediction.weight).mean()
    (loss + sum(prediction.auxiliary.values())).backward()
    gradients = {name: weight.grad for name, weight in _parameters(components).items() if weight.grad is not None}
    assert gradients, "no weight of the denoiser gets a gradient"
    return loss.detach(), gradients


def _close(actual: Tensor, expected: Tensor) -> bool:
    # A gradient that vanishes by symmetry is rounding noise, of no scale of its own.
    return float((actual - expected).abs().max()) <= 1e-9 + 1e-6 * float(expected.abs().max())
