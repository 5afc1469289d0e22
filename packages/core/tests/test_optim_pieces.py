"""Schedules, clipping and the moving average against hand-made numbers."""

from __future__ import annotations

import pytest
import torch
from diffusers.optimization import get_constant_schedule_with_warmup
from torch.nn import Parameter

from tuner.errors import CheckpointError
from tuner.optim.clipping import clip_gradients
from tuner.optim.ema import MovingAverage, decay_at
from tuner.optim.schedules import learning_rate_factor


def test_warm_up_is_that_of_diffusers():
    optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=1.0)
    reference = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=4)
    for step in range(8):
        assert learning_rate_factor("constant_with_warmup", step, 4) == reference.get_last_lr()[0]
        optimizer.step()
        reference.step()


def test_constant_is_one_and_warms_up_only_if_asked():
    assert [learning_rate_factor("constant", step, 0) for step in range(3)] == [1.0, 1.0, 1.0]
    assert [learning_rate_factor("constant", step, 2) for step in range(4)] == [0.0, 0.5, 1.0, 1.0]
    with pytest.raises(ValueError, match="cosine"):
        learning_rate_factor("cosine", 0, 0)


def graded():
    first, second, idle = (Parameter(torch.zeros(3)) for _ in range(3))
    first.grad = torch.tensor([0.5, -4.0, 0.01])
    second.grad = torch.tensor([3.0, 0.0, -0.02])
    return first, second, idle


def test_clipping_by_value_clamps_each_element():
    first, second, idle = graded()
    metrics = clip_gradients([first, second, idle], "value", 0.1)
    assert metrics["grad_max_abs"].item() == 4.0
    assert torch.equal(first.grad, torch.tensor([0.1, -0.1, 0.01]))
    assert torch.equal(second.grad, torch.tensor([0.1, 0.0, -0.02]))
    assert idle.grad is None


def test_clipping_by_norm_scales_all():
    first, second, _ = graded()
    before = torch.cat([first.grad, second.grad])
    metrics = clip_gradients([first, second], "norm", 1.0)
    after = torch.cat([first.grad, second.grad])
    torch.testing.assert_close(metrics["grad_norm"], before.norm())
    torch.testing.assert_close(after, before / before.norm(), rtol=1e-5, atol=1e-6)


def test_no_limit_leaves_gradients_alone():
    first, second, _ = graded()
    kept = first.grad.clone()
    assert clip_gradients([first, second], "value", 0) == {}
    assert torch.equal(first.grad, kept)


def test_decay_ramps_up_to_its_limit():
    assert [decay_at(step, 0.995) for step in (1, 2, 3)] == [0.0, 2 / 11, 3 / 12]
    assert decay_at(100_000, 0.995) == 0.995


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_follows_the_recurrence(dtype):
    torch.manual_seed(0)
    parameter = Parameter(torch.randn(5).to(dtype))
    average = MovingAverage([("p", parameter)], decay=0.3)
    expected = parameter.detach().double()
    for step in range(1, 6):
        parameter.data.copy_(torch.randn(5))
        average.update(step)
        s = step - 1
        d = 0.0 if s == 0 else min((1 + s) / (10 + s), 0.3)
        expected -= (1 - d) * (expected - parameter.detach().double())
        torch.testing.assert_close(average.state()["p"].double(), expected, rtol=1e-6, atol=1e-6)
    assert average.state()["p"].dtype == torch.float32


def test_average_waits_for_its_interval():
    parameter = Parameter(torch.zeros(2))
    average = MovingAverage([("p", parameter)], decay=0.9, interval=2)
    parameter.data.fill_(1.0)
    average.update(1)
    assert average.state()["p"].tolist() == [0.0, 0.0]
    average.update(2)
    assert average.state()["p"].tolist() == pytest.approx([9 / 11, 9 / 11])


def test_swapping_restores_every_bit():
    parameter = Parameter(torch.randn(64).bfloat16())
    average = MovingAverage([("p", parameter)], decay=0.9)
    parameter.data.mul_(3)
    live = parameter.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), average.swapped():
        assert torch.equal(parameter, average.state()["p"].bfloat16())
        parameter.data.zero_()
        raise RuntimeError("inside")
    assert torch.equal(parameter, live)
    assert average.state()["p"].abs().min() > 0


def test_average_state_round_trip():
    parameter = Parameter(torch.randn(4))
    average = MovingAverage([("p", parameter)], decay=0.9)
    parameter.data.mul_(2)
    average.update(5)
    again = MovingAverage([("p", parameter)], decay=0.9)
    again.load_state({name: tensor.clone() for name, tensor in average.state().items()})
    assert torch.equal(again.state()["p"], average.state()["p"])
    with pytest.raises(CheckpointError, match="q"):
        again.load_state({"q": parameter.detach()})
