"""`compute_loss` is a function of each sample alone, and of everything that it should depend on."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tuner.flow import velocity_loss
from tuner.testing.family import LONG_PROMPT, SHORT_PROMPT, FamilyUnderTest, relative_error, single
from tuner.types import Batch

_SIGMAS = (0.9, 0.1, 0.5, 0.35)


@torch.no_grad()
def test_losses_of_a_batch_are_those_of_its_samples(family: FamilyUnderTest) -> None:
    """Samples with other noise, other prompts and other lengths beside them have the loss they have alone."""
    batch = family.batch(_SIGMAS)
    together = _losses(family, batch)
    alone = torch.cat([_losses(family, single(batch, index)) for index in range(len(_SIGMAS))])
    worst = float(((together - alone).abs() / alone.abs()).max())
    assert worst <= 1e-5, f"the losses {together.tolist()} of a batch are {alone.tolist()} sample by sample"
    torch.testing.assert_close(together.mean(), alone.mean(), rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_pictures_that_are_only_just_not_square(family: FamilyUnderTest, shape: str) -> None:
    """Sides at the family's alignment give finite velocities, and beside another sample those that they give alone."""
    batch = family.batch((0.9, 0.35), shape=family.shapes[shape == "tall"])
    together = family.predict(batch).velocity
    assert together.shape == batch.x.shape
    assert bool(together.isfinite().all())
    for index in range(2):
        error = relative_error(together[index : index + 1], family.predict(single(batch, index)).velocity)
        assert error <= 1e-5, f"sample {index} has another velocity in a batch (off by {error:.1e})"


@torch.no_grad()
def test_velocity_is_not_reduced(family: FamilyUnderTest) -> None:
    """The prediction has the shape of x, its weight fits it, auxiliary losses are scalars; all is finite."""
    batch = family.batch(_SIGMAS)
    prediction = family.predict(batch)
    assert prediction.velocity.shape == batch.x.shape
    assert bool(prediction.velocity.isfinite().all())
    if prediction.weight is not None:
        assert torch.broadcast_shapes(prediction.weight.shape, batch.x.shape) == batch.x.shape
        assert bool((prediction.weight >= 0).all()) and bool(prediction.weight.isfinite().all())
    assert all(loss.ndim == 0 and bool(loss.isfinite()) for loss in prediction.auxiliary.values())


@torch.no_grad()
@pytest.mark.parametrize("what", ["sigma", "text", "x"])
def test_velocity_depends_on(family: FamilyUnderTest, what: str) -> None:
    """Nothing that the network should hear is lost on the way to it."""
    batch = family.batch((0.3,), [LONG_PROMPT])
    changes = {
        "sigma": replace(batch, sigma=torch.tensor([0.7])),
        "text": replace(batch, conditioning=family.encode([SHORT_PROMPT])),
        "x": replace(batch, x=batch.x.flip(-1)),
    }
    change = relative_error(family.predict(changes[what]).velocity, family.predict(batch).velocity)
    assert change > 1e-5, f"another {what} changes the velocity by {change:.1e} only"


@torch.no_grad()
def test_velocity_does_not_depend_on_the_target(family: FamilyUnderTest) -> None:
    """The answer is not read off the question."""
    batch = family.batch((0.3,))
    other = replace(batch, target=-batch.target)
    assert torch.equal(family.predict(batch).velocity, family.predict(other).velocity)


def test_no_random_generator_is_read(family: FamilyUnderTest) -> None:
    """In training mode too, the same batch gives the same velocity and moves no global generator."""
    components = family.load("denoiser")
    assert components.denoiser is not None
    components.denoiser.train()
    batch = family.batch(_SIGMAS)
    before = _generator_states()
    first = family.predict(batch, components).velocity
    assert _generator_states() == before, "compute_loss reads a global random generator"
    assert torch.equal(first, family.predict(batch, components).velocity), "the same batch gives two velocities"


@torch.no_grad()
def test_training_mode_computes_what_sampling_computes(family: FamilyUnderTest) -> None:
    """What is trained, in training mode, is the function that is sampled, in evaluation mode."""
    batch = family.batch(_SIGMAS)
    components = family.load("denoiser")
    assert components.denoiser is not None
    evaluated = family.predict(batch, components).velocity
    components.denoiser.train()
    assert relative_error(family.predict(batch, components).velocity, evaluated) <= 1e-5


def _losses(family: FamilyUnderTest, batch: Batch) -> torch.Tensor:
    prediction = family.predict(batch)
    return velocity_loss(prediction.velocity, batch.target, prediction.weight)


def _generator_states() -> tuple[object, ...]:
    torch_state = bytes(torch.get_rng_state().numpy())
    numpy_state = repr(np.random.get_state(legacy=False)["state"])
    return torch_state, numpy_state, random.getstate()
