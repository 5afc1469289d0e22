"""Masks, regularisation and rollouts, which the core writes once on velocities, hold for this family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tuner.flow import mix, velocity_target
from tuner.randomness import normal_tensor
from tuner.testing.convention import Convention, answering
from tuner.testing.family import FamilyUnderTest, relative_error
from tuner.testing.learning import KINDS, drawn, learner, learning
from tuner.training.batches import DrawnBatch
from tuner.training.rollout import ROLLOUT_STEP, Integrator, Rollout
from tuner.training.step import Learning, backward_step, prepare_batch, sample_losses


@pytest.fixture(scope="module")
def subject(family: FamilyUnderTest) -> Learning:
    """A new standard LoRA in training mode."""
    made = learner(family, KINDS["standard"])
    made.trainable.denoiser.train()
    return learning(family, made.components, made.trainable)


@pytest.fixture(autouse=True)
def no_gradients_stay(subject: Learning) -> Iterator[None]:
    """Start and end without gradients."""
    yield
    subject.trainable.denoiser.zero_grad()


def test_a_black_mask_gives_no_loss_and_no_gradient(family: FamilyUnderTest, subject: Learning) -> None:
    """Nothing outside the mask is learnt."""
    batch = drawn(family)
    losses, _ = sample_losses(subject, prepare_batch(subject, batch), _mask(batch, 0.0))
    losses.sum().backward()
    assert torch.count_nonzero(losses) == 0
    assert all(torch.count_nonzero(gradient) == 0 for gradient in _gradients(subject).values())


def test_a_white_mask_is_no_mask(family: FamilyUnderTest, subject: Learning) -> None:
    """Where everything is inside the mask, loss and gradients are those without one, bit for bit."""
    batch = drawn(family)
    loss, _, _ = backward_step(subject, [replace(batch, mask=_mask(batch, 1.0))], Tensor.backward)
    masked = _gradients(subject)
    subject.trainable.denoiser.zero_grad()
    expected_loss, _, _ = backward_step(subject, [batch], Tensor.backward)
    expected = _gradients(subject)
    assert torch.equal(loss, expected_loss)
    assert any(torch.count_nonzero(gradient) for gradient in expected.values())
    assert masked.keys() == expected.keys()
    assert all(torch.equal(masked[name], gradient) for name, gradient in expected.items())


@torch.no_grad()
def test_a_mask_weighs_the_cells_that_it_lies_on(family: FamilyUnderTest, subject: Learning) -> None:
    """Of a mask of the left half, only errors in the left half of the latent count."""
    batch = drawn(family)
    mask = _mask(batch, 1.0)
    half = mask.shape[-1] // 2
    mask[..., half:] = 0
    prepared = prepare_batch(subject, batch)
    losses, prediction = sample_losses(subject, prepared, mask)
    error = (prediction.velocity - prepared.target).square()
    if prediction.weight is not None:
        error = error * prediction.weight
    by_hand = error[..., :half].flatten(1).sum(dim=1) / error[0].numel()
    torch.testing.assert_close(losses, by_hand, rtol=1e-5, atol=0)


def test_a_new_adapter_has_nothing_to_unlearn(family: FamilyUnderTest, subject: Learning) -> None:
    """On regularisation data, an adapter that does nothing yet has no loss, and no gradient but auxiliary ones."""
    _, parts, _ = backward_step(subject, [replace(drawn(family), regularisation=True)], Tensor.backward)
    assert float(parts["regularisation_loss"]) <= 1e-10
    if len(parts) == 1:
        assert all(float(gradient.abs().max()) <= 1e-6 for gradient in _gradients(subject).values())


def test_regularisation_aims_at_the_base_model(family: FamilyUnderTest, subject: Learning) -> None:
    """However far an adapter has gone, the target is the base model's velocity, made without a gradient."""
    batch = drawn(family)
    base = family.predict(prepare_batch(subject, batch)).velocity.detach()
    with subject.trainable.holding(_far(subject)):
        prepared = prepare_batch(subject, replace(batch, regularisation=True))
        assert not prepared.target.requires_grad
        assert not _gradients(subject)
        assert relative_error(prepared.target, base) <= 1e-5
        losses, _ = sample_losses(subject, prepared)
    assert bool((losses > 1e-6 * base.square().mean()).all()), "an adapter far from the base model has no loss"


@pytest.mark.parametrize("integrator", get_args(Integrator))
def test_a_rollout_on_the_true_velocity_stays_on_the_line(family: FamilyUnderTest, integrator: Integrator) -> None:
    """Led by the oracle from more noise to its sigma, a sample comes to where it would have been mixed."""
    batch = replace(drawn(family), rollout=Rollout(torch.tensor([3, 1]), integrator, order=2))
    made = learner(family, KINDS["full"])
    denoiser = made.trainable.denoiser
    oracle = _TrueVelocity(Convention.of(family), batch)
    with answering(denoiser, oracle):
        rolled = prepare_batch(learning(family, made.components, made.trainable), batch)
    assert relative_error(rolled.x, mix(batch.latents, batch.noise, batch.sigma)) <= 1e-5
    assert relative_error(rolled.target, velocity_target(batch.latents, batch.noise)) <= 1e-4
    first, second = batch.sigma.tolist()
    ahead = [[first + 3 * ROLLOUT_STEP, second + ROLLOUT_STEP], [first + 2 * ROLLOUT_STEP, second + ROLLOUT_STEP]]
    expected = torch.tensor([*ahead, [first + ROLLOUT_STEP, second + ROLLOUT_STEP]])
    torch.testing.assert_close(torch.tensor(oracle.sigmas), expected, rtol=0, atol=1e-5)
    assert not oracle.had_gradients
    assert not rolled.x.requires_grad and not rolled.target.requires_grad


class _TrueVelocity:
    """Stands in for the denoiser and gives every sample of a batch its velocity (x - x0) / sigma.

    Attributes:
        sigmas: Those asked about, by call and sample.
        had_gradients: Whether a call was made with gradients enabled.
    """

    def __init__(self, convention: Convention, batch: DrawnBatch) -> None:
        self._convention = convention
        self._x0 = batch.latents
        self.sigmas: list[list[float]] = []
        self.had_gradients = False

    def __call__(self, arguments: Mapping[str, Any]) -> Tensor:
        self.had_gradients |= torch.is_grad_enabled()
        x: Tensor = arguments[self._convention.x_name]
        times = torch.as_tensor(arguments[self._convention.time_name]).flatten().tolist()
        sigmas = [self._convention.sigma_of(time) for time in times]
        self.sigmas.append(sigmas)
        rows = [
            self._convention.raw_for((x[row : row + 1] - self._x0[row : row + 1]) / sigma, x[row : row + 1], sigma)
            for row, sigma in enumerate(sigmas)
        ]
        return torch.cat(rows)


def _mask(batch: DrawnBatch, value: float) -> Tensor:
    return torch.full((len(batch.keys), 1, *batch.latents.shape[-2:]), value)


def _gradients(subject: Learning) -> dict[str, Tensor]:
    named = subject.trainable.named_parameters()
    return {name: weight.grad.clone() for name, weight in named if weight.grad is not None}


def _far(subject: Learning) -> dict[str, Tensor]:
    """Return values of the trained weights that change the model much."""
    return {name: 0.1 * normal_tensor(weight.shape, 1, name) for name, weight in subject.trainable.named_parameters()}
