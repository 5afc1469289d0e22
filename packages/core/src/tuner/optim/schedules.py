"""The learning rate as a pure function of the step."""

from __future__ import annotations


def learning_rate_factor(name: str, step: int, warmup_steps: int) -> float:
    """Return what the peak learning rate is multiplied with.

    The convention of diffusers' `get_constant_schedule_with_warmup`: the very first step has a factor of 0, and step
    `warmup_steps` the first of 1.

    Args:
        name: `constant` or `constant_with_warmup`. They differ in name alone: a warm-up asked for is never ignored.
        step: Optimizer steps taken before this one.
        warmup_steps: Steps of the linear rise from 0; 0 for none.

    Raises:
        ValueError: No schedule has this name.
    """
    if name not in ("constant", "constant_with_warmup"):
        raise ValueError(f"{name!r} is no learning rate schedule; there are constant and constant_with_warmup")
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0
