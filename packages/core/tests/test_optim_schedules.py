"""Learning rates against closed forms and the schedules of diffusers and torch."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.optimization import get_scheduler
from torch.nn import Parameter

from tuner.optim.schedules import SHAPES, Schedule

PEAK, TOTAL = 1e-3, 400


@pytest.mark.parametrize("cycles", [1, 3])
@pytest.mark.parametrize("warmup", [0, 40])
@pytest.mark.parametrize(
    "name", ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
)
def test_rates_are_those_of_diffusers(name, warmup, cycles):
    optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=PEAK)
    # There, "constant" ignores a warm-up, and the half wave of "cosine" counts as half a cycle.
    theirs = "constant_with_warmup" if name == "constant" else name
    if name == "polynomial":
        from diffusers.optimization import get_polynomial_decay_schedule_with_warmup

        reference = get_polynomial_decay_schedule_with_warmup(optimizer, warmup, TOTAL, lr_end=4e-7, power=0.8)
    else:
        reference = get_scheduler(theirs, optimizer, None, warmup, TOTAL, cycles)
    schedule = Schedule(name, PEAK, TOTAL, warmup, end=4e-7, cycles=cycles)
    for step in range(TOTAL + 1):
        assert schedule.at(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9, abs=1e-15), step
        optimizer.step()
        reference.step()


@pytest.mark.parametrize(
    ("step", "progress"), [(0, None), (49, None), (99, None), (100, 0.0), (250, 0.5), (399, 299 / 300)]
)
def test_closed_forms_after_a_rise_of_100_steps(step, progress):
    def rate(name):
        return Schedule(name, PEAK, TOTAL, 100, end=4e-7, cycles=2).at(step)

    if progress is None:
        assert {name: rate(name) for name in SHAPES} == dict.fromkeys(SHAPES, pytest.approx(PEAK * step / 100))
        return
    half = math.pi * progress
    twice = 2 * progress % 1
    expected = {
        "constant": PEAK,
        "constant_with_warmup": PEAK,
        "linear": PEAK * (1 - progress),
        "cosine": PEAK * math.cos(half / 2) ** 2,
        "cosine_with_restarts": PEAK * math.cos(math.pi * twice / 2) ** 2,
        "sine": PEAK * (0.5 + 0.5 * math.sin(half)),
        "polynomial": (PEAK - 4e-7) * (1 - progress) ** 0.8 + 4e-7,
    }
    assert {name: rate(name) for name in SHAPES} == {key: pytest.approx(value) for key, value in expected.items()}


def test_rates_stay_at_their_end():
    ends = {name: Schedule(name, PEAK, TOTAL, 100, end=4e-7).at(TOTAL + 7) for name in SHAPES}
    constant = {"constant": PEAK, "constant_with_warmup": PEAK}
    falling = dict.fromkeys(("linear", "cosine", "cosine_with_restarts"), 0.0)
    expected = {**constant, **falling, "sine": PEAK / 2, "polynomial": 4e-7}
    assert ends == {name: pytest.approx(value, abs=1e-15) for name, value in expected.items()}


def test_a_run_shorter_than_its_rise_only_rises():
    assert [Schedule("cosine", 1.0, 2, 4).at(step) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_what_a_resumed_run_must_keep():
    assert Schedule("constant_with_warmup", 1e-3, 10, 5).identity() == ""
    made = [Schedule("cosine", 1e-3, 10), Schedule("cosine", 1e-3, 20), Schedule("cosine", 2e-3, 10)]
    made += [Schedule("linear", 1e-3, 10), Schedule("polynomial", 1e-3, 10), Schedule("polynomial", 1e-3, 10, end=1e-5)]
    made += [Schedule("cosine_with_restarts", 1e-3, 10, cycles=cycles) for cycles in (1, 2)]
    assert len({schedule.identity() for schedule in made}) == len(made)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'sawtooth' is no learning rate schedule"):
        Schedule("sawtooth", 1.0, 10)
