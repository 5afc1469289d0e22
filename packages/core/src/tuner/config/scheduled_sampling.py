"""Training on states that the model itself reached."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from tuner.config.settings import NOT_YET, Topic, setting

if TYPE_CHECKING:
    import numpy as np

_ON = {"scheduled_sampling_max_step_offset": (True,), "scheduled_sampling_probability": (True,)}
_REFLEXFLOW = (
    f"{NOT_YET}: ReflexFlow (Huang et al. 2025, arXiv 2512.04904) is not part of it; a rollout learns the velocity "
    "that leads from where it got to the clean latent, with the loss of any other sample"
)
_RAMP = {**_ON, "scheduled_sampling_ramp_steps": (True,)}


class ScheduledSamplingConfig(Topic):
    """Rollouts: some samples start at more noise and are brought to their sigma by the model. Costs computation."""

    scheduled_sampling_max_step_offset: int = setting(
        0, "Most model steps of a rollout, each of 1/1000 in sigma; 0 turns rollouts off.", unit="model steps", ge=0
    )
    scheduled_sampling_probability: float = setting(
        0.0,
        "Chance that a sample is rolled out; 0 turns rollouts off.",
        ge=0,
        le=1,
        needs={"scheduled_sampling_max_step_offset": (True,)},
    )
    scheduled_sampling_strategy: Literal["uniform", "biased_early", "biased_late"] = setting(
        "uniform",
        "How the number of model steps is drawn from 0 to the most: uniform; biased_early, the smaller of two such "
        "draws, for short rollouts; biased_late, the larger one, for long ones.",
        needs=_ON,
    )
    scheduled_sampling_sampler: Literal["euler", "dpm", "unipc"] = setting(
        "euler",
        "Integrator of the model steps: Euler's method, DPM-Solver++ or UniPC; all take the same number of them.",
        needs=_ON,
    )
    scheduled_sampling_order: int = setting(
        2, "Order of dpm and unipc.", ge=1, le=2, needs={**_ON, "scheduled_sampling_sampler": ("dpm", "unipc")}
    )
    scheduled_sampling_reflexflow: bool = setting(False, "The loss of ReflexFlow.", needs=_ON, unread=_REFLEXFLOW)
    scheduled_sampling_reflexflow_alpha: float = setting(
        1.0, "A weight of ReflexFlow's loss.", ge=0, needs=_ON, unread=_REFLEXFLOW
    )
    scheduled_sampling_reflexflow_beta1: float = setting(
        10.0, "A weight of ReflexFlow's loss.", ge=0, needs=_ON, unread=_REFLEXFLOW
    )
    scheduled_sampling_reflexflow_beta2: float = setting(
        1.0, "A weight of ReflexFlow's loss.", ge=0, needs=_ON, unread=_REFLEXFLOW
    )
    scheduled_sampling_start_step: int = setting(0, "Steps before the first rollout.", unit="steps", ge=0, needs=_ON)
    scheduled_sampling_ramp_steps: int = setting(
        0, "Steps over which the chance goes from prob_start to prob_end; 0 for no ramp.", unit="steps", ge=0, needs=_ON
    )
    scheduled_sampling_prob_start: float = setting(0.0, "Chance at the start of the ramp.", ge=0, le=1, needs=_RAMP)
    scheduled_sampling_prob_end: float = setting(0.5, "Chance at the end of the ramp.", ge=0, le=1, needs=_RAMP)
    scheduled_sampling_ramp_shape: Literal["linear", "cosine"] = setting("linear", "Shape of the ramp.", needs=_RAMP)

    @property
    def rolls_out(self) -> bool:
        """Whether any sample is ever rolled out."""
        return self.scheduled_sampling_max_step_offset > 0 and self.scheduled_sampling_probability > 0

    def draw_moves(self, random: np.random.Generator) -> int:
        """Draw the number of model steps of a rollout, from 0 to the most."""
        most = self.scheduled_sampling_max_step_offset
        first = int(random.integers(most + 1))
        if self.scheduled_sampling_strategy == "uniform":
            return first
        second = int(random.integers(most + 1))
        return min(first, second) if self.scheduled_sampling_strategy == "biased_early" else max(first, second)

    def probability(self, step: int) -> float:
        """Return the chance of a rollout in optimizer step `step`, counted from 0."""
        if not self.rolls_out or step < self.scheduled_sampling_start_step:
            return 0.0
        if not self.scheduled_sampling_ramp_steps:
            return self.scheduled_sampling_probability
        way = min(1.0, (step - self.scheduled_sampling_start_step) / self.scheduled_sampling_ramp_steps)
        if self.scheduled_sampling_ramp_shape == "cosine":
            way = (1.0 - math.cos(math.pi * way)) / 2.0
        start, end = self.scheduled_sampling_prob_start, self.scheduled_sampling_prob_end
        return start + (end - start) * way
