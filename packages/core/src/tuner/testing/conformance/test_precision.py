"""In bfloat16 the family computes what it computes in float32, but for rounding, and keeps the time exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tuner.flow import velocity_loss
from tuner.testing.convention import Convention, answering
from tuner.testing.family import FamilyUnderTest
from tuner.types import Batch, Components

_SIGMAS = (0.1003, 0.7001, 0.9987)
"""None of them is near a number that bfloat16 knows."""


@pytest.fixture(scope="module")
def halved(family: FamilyUnderTest) -> Components:
    """The denoiser in bfloat16."""
    request = replace(family.request("denoiser"), dtype=torch.bfloat16)
    components: Components = family.hooks.load_components(request=request)
    return components


@torch.no_grad()
def test_velocity_is_that_of_float32(family: FamilyUnderTest, halved: Components) -> None:
    """Rounding weights and activations moves the velocity by less than 5%, in the mean square."""
    batch = family.batch(_SIGMAS)
    expected = family.predict(batch).velocity
    actual = family.predict(_in_bfloat16(batch), halved).velocity.float()
    error = float((actual - expected).norm() / expected.norm())
    assert error <= 0.05, f"in bfloat16 the velocity is off by {error:.1%}"


def test_gradients_are_finite(family: FamilyUnderTest, halved: Components) -> None:
    """All weights can be trained in bfloat16."""
    denoiser = halved.denoiser
    assert denoiser is not None
    denoiser.train().requires_grad_(True)
    batch = _in_bfloat16(family.batch(_SIGMAS))
    prediction = family.predict(batch, halved)
    loss = velocity_loss(prediction.velocity, batch.target, prediction.weight).mean()
    (loss + sum(prediction.auxiliary.values())).backward()
    gradients = {name: weight.grad for name, weight in denoiser.named_parameters() if weight.grad is not None}
    denoiser.zero_grad()
    denoiser.eval().requires_grad_(False)
    assert gradients, "no weight of the denoiser gets a gradient"
    broken = sorted(name for name, gradient in gradients.items() if not bool(gradient.isfinite().all()))
    assert not broken, f"in bfloat16 the gradients of {broken} are not finite"


@torch.no_grad()
def test_time_keeps_the_precision_of_float32(family: FamilyUnderTest, halved: Components) -> None:
    """The time that a bfloat16 network is told is that of the float32 one, not rounded to one of 256 values."""
    convention = Convention.of(family)
    denoiser = halved.denoiser
    assert denoiser is not None
    real = denoiser.forward
    heard: list[Tensor] = []

    def answer(arguments: Mapping[str, Any]) -> Tensor:
        heard.append(torch.as_tensor(arguments[convention.time_name]).double().flatten())
        raw: Tensor = real(**{**arguments, "return_dict": False})[0]
        return raw

    with answering(denoiser, answer):
        family.predict(_in_bfloat16(family.batch(_SIGMAS)), halved)
    expected = torch.tensor([convention.time_of(sigma) for sigma in _SIGMAS]).double()
    span = abs(convention.time_of(1.0) - convention.time_of(0.0))
    error = float((heard[0] - expected).abs().max()) / span
    assert error <= 1e-6, f"the denoiser is told the times {heard[0].tolist()}, in float32 {expected.tolist()}"


def _in_bfloat16(batch: Batch) -> Batch:
    return replace(batch, x=batch.x.bfloat16())
