"""Whatever the policy allows works: networks in fewer bits compute with rounded weights, and adapters train on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tuner.adapters import Trainable
from tuner.flow import velocity_loss
from tuner.plugins import load_family
from tuner.quantisation.schemes import SCHEMES, UNQUANTISED
from tuner.randomness import normal_tensor
from tuner.testing.family import PROMPTS, FamilyUnderTest
from tuner.testing.learning import KINDS, SIGMAS, adapt
from tuner.testing.quantising import ADAPTERS, Cell, Weights, cells, load_cell
from tuner.types import Batch, Components, Part

_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.03}
"""Kernels that compute with stored weights may sum in another order and round their scales later."""

_GRADIENT_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.1}

_ENCODERS = 4
"""Encoders of random weights amplify errors, and a pooled vector has few values to average over."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a proof for each cell of the family's policy."""
    family = load_family(metafunc.config.getoption("tuner_family"))
    parts: dict[str, Part] = {"denoiser_cell": "denoiser", "encoder_cell": "text_encoders"}
    for fixture, part in parts.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, list(cells(family, part)), ids=str)


@torch.no_grad()
def test_a_stored_denoiser_computes_with_rounded_weights(family: FamilyUnderTest, denoiser_cell: Cell) -> None:
    """It gives what ordinary layers with the rounded values give, and is off by no more than the scheme's bound."""
    stored, reports = load_cell(family, denoiser_cell, "stored")
    velocity = family.predict(_batch(family, denoiser_cell), stored).velocity
    for weights, bound in _bounds(denoiser_cell).items():
        other, _ = load_cell(family, denoiser_cell, weights)
        error = _distance(velocity, family.predict(_batch(family, denoiser_cell), other).velocity)
        assert error <= bound, f"the velocity is off by {error:.2%} from that of {weights} weights"
    for report in reports:
        assert report.stored, "no layer is stored in fewer bits"
        assert report.bytes_after < report.bytes_before


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_train_on_a_stored_denoiser(family: FamilyUnderTest, denoiser_cell: Cell, adapter: str) -> None:
    """They get the gradients that they get on ordinary layers with the rounded values, on every layer."""
    stored, rounded = (_gradients(family, denoiser_cell, adapter, weights) for weights in ("stored", "rounded"))
    assert stored.keys() == rounded.keys()
    error = _distance(torch.cat(list(stored.values())), torch.cat(list(rounded.values())))
    assert error <= _GRADIENT_ROUNDING[denoiser_cell.dtype], f"gradients are off by {error:.2%}"


@torch.no_grad()
def test_stored_encoders_compute_with_rounded_weights(family: FamilyUnderTest, encoder_cell: Cell) -> None:
    """Conditionings are what ordinary layers with the rounded values give, and off by a bounded error."""
    if not family.facts.text_encoder_folders:
        assert encoder_cell.scheme == UNQUANTISED, "the policy speaks of text encoders, and part_folders has none"
        return
    stored, reports = load_cell(family, encoder_cell, "stored")
    assert tuple(stored.text_encoders) == family.facts.text_encoder_folders, "settings count encoders in this order"
    assert all(report.stored for report in reports), "an encoder has no layer that is stored in fewer bits"
    embedded = _embedded(family, stored)
    for weights, bound in _bounds(encoder_cell).items():
        expected = _embedded(family, load_cell(family, encoder_cell, weights)[0])
        for name, tensor in embedded.items():
            error = _distance(tensor, expected[name])
            assert error <= _ENCODERS * bound, f"{name} is off by {error:.2%} from that of {weights} weights"


def _bounds(cell: Cell) -> dict[Weights, float]:
    if cell.scheme == UNQUANTISED:
        return {"published": 0.0}
    return {"published": SCHEMES[cell.scheme].error, "rounded": _ROUNDING[cell.dtype]}


def _batch(family: FamilyUnderTest, cell: Cell) -> Batch:
    batch = family.batch(SIGMAS)
    return replace(batch, x=batch.x.to(cell.dtype))


def _embedded(family: FamilyUnderTest, components: Components) -> dict[str, Tensor]:
    conditioning = family.hooks.encode_prompt(components=components, prompts=PROMPTS, role="caption")
    return {name: tensor for name, tensor in conditioning.items() if tensor.is_floating_point()}


def _gradients(family: FamilyUnderTest, cell: Cell, adapter: str, weights: Weights) -> dict[str, Tensor]:
    """Return the gradients of an adapter that has already learned something."""
    components, _ = load_cell(family, cell, weights)
    trainable = _trainable(family, cell, adapter, components)
    trainable.denoiser.train()
    batch = _batch(family, cell)
    prediction = family.predict(batch, components)
    velocity_loss(prediction.velocity, batch.target, prediction.weight).mean().backward()
    base = [name for name, weight in trainable.denoiser.named_parameters() if weight.grad is not None]
    own = {id(parameter) for _, parameter in trainable.named_parameters()}
    strangers = [name for name in base if id(trainable.denoiser.get_parameter(name)) not in own]
    assert not strangers, f"weights of the base model are trained: {strangers}"
    found = {
        name: parameter.grad.float().flatten()
        for name, parameter in trainable.named_parameters()
        if parameter.grad is not None
    }
    assert len(found) > len(own) / 4, "few of the adapter's matrices get a gradient"
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())
    return found


@torch.no_grad()
def _trainable(family: FamilyUnderTest, cell: Cell, adapter: str, components: Components) -> Trainable:
    trainable = adapt(family, components, KINDS[adapter], cell.dtype)
    for name, parameter in trainable.named_parameters():
        parameter.add_(0.01 * normal_tensor(parameter.shape, 1, "adapter", sample=name))
    return trainable


def _distance(actual: Tensor, expected: Tensor) -> float:
    """Return the relative error of L2 norms; infinite where anything is not finite."""
    error = float((actual.double() - expected.double()).norm() / expected.double().norm())
    return error if error == error else float("inf")
