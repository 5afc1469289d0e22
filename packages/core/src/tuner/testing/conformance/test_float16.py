"""In float16 a denoiser predicts and learns what it does in float32, within the error of the format."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tuner.config.optimisation import OptimisationConfig
from tuner.config.precision import PrecisionConfig
from tuner.optim.gradients import gradients_of
from tuner.optim.optimizers import create_optimizer
from tuner.optim.scaling import LossScale
from tuner.randomness import normal_tensor
from tuner.testing.family import FamilyUnderTest
from tuner.testing.learning import KINDS, Kind, adapt, drawn, learner, learning
from tuner.training.casting import Dtypes, cast_operations
from tuner.training.loop import Learner
from tuner.training.step import backward_step

_CPU = torch.device("cpu")
_VELOCITY = 1e-2
_GRADIENT = 5e-2
"""Largest relative L2 errors. float16 rounds to 5e-4, and each layer adds its share."""


def _in_float16(family: FamilyUnderTest, kind: Kind) -> Learner:
    """Load what `learner` loads as a run in float16 does."""
    dtypes = Dtypes.of(PrecisionConfig(mixed_precision="fp16"), family.facts)
    request = replace(
        family.request("denoiser"),
        dtype=dtypes.compute,
        dtypes=dtypes.by_part(trains_denoiser=kind.model_type == "full"),
    )
    components = family.hooks.load_components(request=request)
    cast_operations(components.denoiser, _CPU, family.facts.exact_attention)
    trainable = adapt(family, components, kind, dtypes.trained)
    optimizer = create_optimizer("optimi-adamw", trainable.named_parameters(), kind.learning_rate, dtype=dtypes.trained)
    return Learner(components, trainable, optimizer, scale=LossScale(_CPU))


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-12))


def _seen(family: FamilyUnderTest, subject: Learner, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the velocity of a batch, and the gradient of its loss as one vector."""
    gradients = gradients_of(subject.optimizer, OptimisationConfig(optimizer="optimi-adamw"), subject.scale)
    mathematics = replace(learning(family, subject.components, subject.trainable), dtype=dtype)
    with torch.no_grad():
        velocity = mathematics.predict(drawn(family).noised(_CPU, dtype)).velocity
    backward_step(mathematics, [drawn(family)], lambda loss: gradients.scaled(loss).backward())
    gradients.clip()
    found = [weight.grad.flatten() for _, weight in subject.trainable.named_parameters() if weight.grad is not None]
    return velocity, torch.cat(found)


@pytest.mark.parametrize("name", KINDS)
def test_float16_predicts_and_learns_the_same(family: FamilyUnderTest, name: str) -> None:
    """Velocity and gradient of every kind of training, the loss scaled as in a run; what trains is float32."""
    kind = KINDS[name]
    exact, half = learner(family, kind), _in_float16(family, kind)
    others = dict(half.trainable.named_parameters())
    assert {weight.dtype for weight in others.values()} == {torch.float32}
    for key, weight in exact.trainable.named_parameters():
        with torch.no_grad():
            if kind.model_type == "lora":  # which starts at nothing, and so do half of its gradients
                weight.add_(normal_tensor(weight.shape, 1, key), alpha=0.02)
            others[key].copy_(weight)
    (velocity, gradient), (found, learnt) = _seen(family, exact, torch.float32), _seen(family, half, torch.float16)
    remedy = "does FamilyFacts.exact_attention name what must compute in float32?"
    assert 0 < _error(found, velocity) <= _VELOCITY, remedy
    assert 0 < _error(learnt, gradient) <= _GRADIENT, remedy
