"""Auxiliary losses are computed once, where they are meant to be, and are learnt from.

The proofs look at the family's default options, and at each switch among its options turned the other way. A family
that has no auxiliary losses in any of these passes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pydantic
import pytest
import torch

from tuner.testing.family import FamilyUnderTest, relative_error
from tuner.testing.learning import KINDS, adapt, drawn, learning
from tuner.training.step import prepare_batch, sample_losses
from tuner.types import Batch, Components

_SIGMAS = (0.2, 0.6)


@pytest.fixture(scope="module")
def having(family: FamilyUnderTest) -> list[pydantic.BaseModel]:
    """The options with which there are auxiliary losses in training."""
    batch = family.batch(_SIGMAS)
    return [options for options in _variants(family) if family.predict(batch, _trained(family, options)).auxiliary]


def test_auxiliary_losses_are_learnt_from(family: FamilyUnderTest, having: list[pydantic.BaseModel]) -> None:
    """Each has a gradient that reaches some weight."""
    for options in having:
        components = _trained(family, options)
        assert components.denoiser is not None
        weights = [weight for weight in components.denoiser.parameters() if weight.requires_grad]
        for name, loss in family.predict(family.batch(_SIGMAS), components).auxiliary.items():
            assert loss.requires_grad, f"{name} has no gradient"
            gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            reached = [gradient for gradient in gradients if gradient is not None and bool(gradient.any())]
            assert reached, f"the gradient of {name} reaches no weight"


def test_auxiliary_losses_bear_gradient_checkpointing(
    family: FamilyUnderTest, having: list[pydantic.BaseModel]
) -> None:
    """Computing activations twice neither counts a loss twice nor loses it."""
    batch = family.batch(_SIGMAS)
    for options in having:
        components = _trained(family, options)
        expected, expected_gradients = _auxiliary(family, batch, components)
        assert components.denoiser is not None
        components.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        actual, gradients = _auxiliary(family, batch, components)
        assert relative_error(actual, expected) <= 1e-6
        error = relative_error(gradients, expected_gradients)
        assert error <= 1e-5, f"checkpointing changes the gradients of auxiliary losses by {error:.1e}"


def test_auxiliary_losses_ignore_the_base_models_pass(
    family: FamilyUnderTest, having: list[pydantic.BaseModel]
) -> None:
    """On regularisation data the base model is asked first; what it does counts in no loss."""
    for options in having:
        components = _loaded(family, options)
        subject = learning(family, components, adapt(family, components, KINDS["standard"]))
        subject.trainable.denoiser.train()
        batch = drawn(family)
        _, plain = sample_losses(subject, prepare_batch(subject, batch))
        _, regularised = sample_losses(subject, prepare_batch(subject, replace(batch, regularisation=True)))
        assert regularised.auxiliary.keys() == plain.auxiliary.keys()
        for name, loss in plain.auxiliary.items():
            error = relative_error(regularised.auxiliary[name].detach(), loss.detach())
            assert error <= 1e-6, f"the base model's pass changes {name} by {error:.1e}"


def _variants(family: FamilyUnderTest) -> Iterator[pydantic.BaseModel]:
    """Yield the default options, and those with one switch turned the other way where that is allowed alone."""
    defaults = family.facts.options()
    yield defaults
    for name, value in defaults:
        if isinstance(value, bool):
            try:
                yield family.facts.options.model_validate({name: not value})
            except pydantic.ValidationError:
                continue


def _loaded(family: FamilyUnderTest, options: pydantic.BaseModel) -> Components:
    components: Components = family.hooks.load_components(request=replace(family.request("denoiser"), options=options))
    return components


def _trained(family: FamilyUnderTest, options: pydantic.BaseModel) -> Components:
    components = _loaded(family, options)
    assert components.denoiser is not None
    components.denoiser.train().requires_grad_(True)
    return components


def _auxiliary(family: FamilyUnderTest, batch: Batch, components: Components) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the auxiliary losses, and its gradients in one row."""
    losses = family.predict(batch, components).auxiliary
    total = torch.stack(list(losses.values())).sum()
    assert components.denoiser is not None
    weights = list(components.denoiser.parameters())
    gradients = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
    return total.detach(), torch.cat([gradient.flatten() for gradient in gradients])
