"""Optimizers against their formulas, Kahan summation, and exact state."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import Parameter

from tuner.errors import CheckpointError
from tuner.optim.optimizers import OPTIMIZERS, create_optimizer
from tuner.optim.state import load_optimizer_state, optimizer_state

NAMES = sorted(OPTIMIZERS)


def make_parameters(dtype, seed=0):
    values = torch.Generator().manual_seed(seed)
    return [
        (name, Parameter(torch.randn(shape, generator=values).to(dtype)))
        for name, shape in (("first.weight", (4, 6)), ("second.bias", (5,)), ("scale", ()))
    ]


def run_steps(optimizer, named, steps):
    for step in steps:
        values = torch.Generator().manual_seed(100 + step)
        for _, parameter in named:
            parameter.grad = torch.randn(parameter.shape, generator=values).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_three_and_three_steps_equal_six(name, dtype):
    whole = make_parameters(dtype)
    optimizer = create_optimizer(name, whole, 1e-2, dtype)
    run_steps(optimizer, whole, range(6))

    first = make_parameters(dtype)
    optimizer_a = create_optimizer(name, first, 1e-2, dtype)
    run_steps(optimizer_a, first, range(3))
    tensors, plain = optimizer_state(optimizer_a)
    tensors = {key: value.clone() for key, value in tensors.items()}

    second = [(key, Parameter(value.detach().clone())) for key, value in first]
    optimizer_b = create_optimizer(name, second, 1e-2, dtype)
    load_optimizer_state(optimizer_b, tensors, json.loads(json.dumps(plain)))
    run_steps(optimizer_b, second, range(3, 6))

    for (_, expected), (_, found) in zip(whole, second, strict=True):
        assert torch.equal(expected, found)
    expected_state, _ = optimizer_state(optimizer)
    found_state, _ = optimizer_state(optimizer_b)
    assert expected_state.keys() == found_state.keys()
    for key, value in expected_state.items():
        assert torch.equal(value, found_state[key])
        assert value.dtype == found_state[key].dtype


def test_state_keeps_its_dtype_and_follows_names():
    named = make_parameters(torch.bfloat16)
    optimizer = create_optimizer("adamw_bf16", named, 1e-2, torch.bfloat16)
    run_steps(optimizer, named, range(2))
    tensors, plain = optimizer_state(optimizer)
    wide = {key: value.float() if key.endswith("exp_avg") else value for key, value in tensors.items()}
    turned = make_parameters(torch.bfloat16)[::-1]
    other = create_optimizer("adamw_bf16", turned, 1e-2, torch.bfloat16)
    load_optimizer_state(other, wide, plain)
    first = dict(turned)["first.weight"]
    assert other.state[first]["exp_avg"].dtype == torch.float32
    assert torch.equal(other.state[first]["exp_avg"], wide["parameter:first.weight:exp_avg"])


def test_state_of_another_run_is_refused():
    named = make_parameters(torch.float32)
    optimizer = create_optimizer("optimi-adamw", named, 1e-2, torch.float32)
    run_steps(optimizer, named, range(1))
    tensors, plain = optimizer_state(optimizer)
    fewer = create_optimizer("optimi-adamw", named[:2], 1e-2, torch.float32)
    with pytest.raises(CheckpointError, match="scale"):
        load_optimizer_state(fewer, tensors, plain)
    lion = create_optimizer("optimi-lion", named, 1e-2, torch.float32)
    with pytest.raises(CheckpointError, match="AdamW, this run's Lion"):
        load_optimizer_state(lion, tensors, plain)
    reshaped = [(name, Parameter(value.detach().reshape(-1))) for name, value in named]
    with pytest.raises(CheckpointError, match=r"first\.weight"):
        load_optimizer_state(create_optimizer("optimi-adamw", reshaped, 1e-2, torch.float32), tensors, plain)


@pytest.mark.parametrize(("name", "beta2", "decay"), [("adamw_bf16", 0.999, 0.01), ("optimi-adamw", 0.99, 0.0)])
def test_adamw_follows_its_formula(name, beta2, decay):
    torch.manual_seed(0)
    start = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(3, 7, dtype=torch.float64)
    parameter = Parameter(start.float())
    optimizer = create_optimizer(name, [("p", parameter)], 1e-2, torch.float32)
    p, m, v = start.clone(), torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for t, gradient in enumerate(gradients, start=1):
        parameter.grad = gradient.float()
        optimizer.step()
        m = 0.9 * m + 0.1 * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        p = p * (1 - 1e-2 * decay)
        p = p - 1e-2 * (m / (1 - 0.9**t)) / ((v / (1 - beta2**t)).sqrt() + 1e-6)
        torch.testing.assert_close(parameter.detach().double(), p, rtol=1e-5, atol=1e-6)


def test_lion_follows_its_formula():
    torch.manual_seed(0)
    start, gradients = torch.randn(7), torch.randn(3, 7)
    parameter = Parameter(start.clone())
    optimizer = create_optimizer("optimi-lion", [("p", parameter)], 1e-2, torch.float32)
    p, m = start.clone(), torch.zeros(7)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        p = p - 1e-2 * torch.sign(0.9 * m + 0.1 * gradient)
        m = 0.99 * m + 0.01 * gradient
        torch.testing.assert_close(parameter.detach(), p, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_updates_add_up_in_bfloat16(name):
    # The spacing of bfloat16 above 1 is 2^-7, so a plain update of 1e-4 would be rounded away every time.
    assert (torch.ones((), dtype=torch.bfloat16) - 1e-4).item() == 1.0
    parameter = Parameter(torch.ones(8, dtype=torch.bfloat16))
    optimizer = create_optimizer(name, [("p", parameter)], 1e-4, torch.bfloat16)
    for _ in range(1000):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert parameter.float().sub(0.9).abs().max().item() < 0.01
