"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_POLYNOMIAL_POWER = 0.8


@dataclass(frozen=True)
class Schedule:
    """A linear rise from 0, then a shape that ends with the run.

    Attributes:
        name: A key of `SHAPES`.
        peak: Learning rate after the rise.
        total_steps: Steps of the whole run; what is not constant ends there.
        warmup_steps: Steps of the rise; 0 for none.
        end: Learning rate at the end of `polynomial`.
        cycles: Falls of `cosine_with_restarts`.
    """

    name: str
    peak: float
    total_steps: int
    warmup_steps: int = 0
    end: float = 0.0
    cycles: int = 1

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            raise ValueError(f"{self.name!r} is no learning rate schedule; there are {', '.join(SHAPES)}")

    def at(self, step: int) -> float:
        """Return the learning rate of the step before which `step` steps were taken.

        The convention of diffusers' schedules: the very first step of a rise has a rate of 0, and step `warmup_steps`
        the first of the peak.
        """
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return SHAPES[self.name](self, min(progress, 1.0))

    def identity(self) -> str:
        """Describe what a resumed run must keep for its learning rates to go on as they began: nothing if constant."""
        if SHAPES[self.name] is _constant:
            return ""
        return (
            f"{self.name}, peak {self.peak:g}, {self.total_steps} steps, warm-up {self.warmup_steps}, "
            f"end {self.end:g}, cycles {self.cycles}"
        )


def _constant(schedule: Schedule, progress: float) -> float:
    return schedule.peak


def _linear(schedule: Schedule, progress: float) -> float:
    return schedule.peak * (1 - progress)


def _cosine(schedule: Schedule, progress: float) -> float:
    return schedule.peak * (1 + math.cos(math.pi * progress)) / 2


def _cosine_with_restarts(schedule: Schedule, progress: float) -> float:
    """Loshchilov and Hutter, https://arxiv.org/abs/1608.03983, with cycles of one length."""
    return 0.0 if progress == 1 else _cosine(schedule, schedule.cycles * progress % 1)


def _sine(schedule: Schedule, progress: float) -> float:
    """From half the peak up to it in the middle, and down again."""
    return schedule.peak * (1 + math.sin(math.pi * progress)) / 2


def _polynomial(schedule: Schedule, progress: float) -> float:
    return schedule.end + (schedule.peak - schedule.end) * (1 - progress) ** _POLYNOMIAL_POWER


SHAPES: dict[str, Callable[[Schedule, float], float]] = {
    "constant": _constant,
    "constant_with_warmup": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "sine": _sine,
    "polynomial": _polynomial,
}
"""Name -> the learning rate at a progress in [0, 1] after the rise.

`constant` differs from `constant_with_warmup` in name alone: a rise that was asked for is never ignored.
"""
