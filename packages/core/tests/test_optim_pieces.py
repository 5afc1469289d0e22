"""Clipping and the moving average against hand-made numbers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from tuner.errors import CheckpointError
from tuner.optim.clipping import clip_gradients
from tuner.optim.ema import MovingAverage, decay_at


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


def test_what_is_not_measured_is_clipped_all_the_same():
    first, second, _ = graded()
    assert clip_gradients([first, second], "value", 0.1, measure=False) == {}
    assert torch.equal(first.grad, torch.tensor([0.1, -0.1, 0.01]))


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
    assert [decay_at(step, 0.995, 2) for step in (1, 2, 3, 4)] == [0.0, 0.0, 0.0, 2 / 11]


WAYS = {
    "": {},
    "warm-up": {"warmup_steps": 2},
    "kept on the CPU": {"kept_on_cpu": True},
    "updated on the CPU": {"updated_on_cpu": True},
    "one by one": {"all_at_once": False, "kept_on_cpu": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_follows_the_recurrence(dtype, way):
    torch.manual_seed(0)
    parameter = Parameter(torch.randn(5).to(dtype))
    average = MovingAverage([("p", parameter)], decay=0.3, **WAYS[way])
    expected = parameter.detach().double()
    for step in range(1, 7):
        parameter.data.copy_(torch.randn(5))
        average.update(step)
        s = max(0, step - 1 - WAYS[way].get("warmup_steps", 0))
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


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_averages_are_where_they_are_wanted_on_a_gpu(way):
    parameter = Parameter(torch.randn(5, device="cuda"))
    twin = Parameter(parameter.detach().cpu().clone())
    average = MovingAverage([("p", parameter)], decay=0.3, **WAYS[way])
    reference = MovingAverage([("p", twin)], decay=0.3, warmup_steps=WAYS[way].get("warmup_steps", 0))
    for step in range(1, 7):
        twin.data.normal_()
        parameter.data.copy_(twin)
        average.update(step)
        reference.update(step)
    shadow = average.state()["p"]
    assert shadow.device.type == ("cpu" if "CPU" in way or "one" in way else "cuda")
    torch.testing.assert_close(shadow.cpu(), reference.state()["p"])
    with average.swapped():
        assert torch.equal(parameter.cpu(), shadow.cpu())


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
