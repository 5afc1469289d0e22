"""What a diffusers pipeline believes the clean latent to be, at every step of its sampling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.errors import TunerError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SamplingStep:
    """A step that a pipeline's scheduler has taken. To be asked before it takes the next one.

    Attributes:
        number: Counted from 1.
        scheduler: The scheduler, a diffusers object.
        output: What it was given of the network: a velocity in the scheduler's own coordinates, guidance included.
        sample: The latents that the output belongs to.
    """

    number: int
    scheduler: Any
    output: Tensor
    sample: Tensor

    @property
    def steps(self) -> int:
        """Steps in all."""
        return len(self.scheduler.timesteps)

    def x0(self) -> Tensor:
        """Return the clean latent as this step sees it, normalised and in float32.

        All of these samplers walk along straight lines, and x0 is where the line of this step ends: at
        sample - sigma * output, be sigma the share of noise in a mixture or s of x0 + s * noise; where sigmas are
        inverted, at sample + (1 - sigma) * output.
        """
        clean = 1.0 if _is_inverted(self.scheduler) else 0.0
        # The scheduler is at its next step already.
        sigma = self.scheduler.sigmas[self.scheduler.step_index - 1].to(self.sample.device)
        return self.sample.float() + (clean - sigma) * self.output.float()

    def sigma(self) -> float:
        """Return the share of noise in [0, 1] that is left after this step."""
        sigmas = self.scheduler.sigmas
        sigma = float(sigmas[self.scheduler.step_index])
        if _is_inverted(self.scheduler):
            return 1.0 - sigma
        # Sigmas beyond 1 are s of x0 + s * noise, which is 1 + s times a mixture with the share s / (1 + s).
        return sigma / (1.0 + sigma) if float(sigmas.max()) > 1.01 else sigma


def watching_steps(
    scheduler: Any, tell: Callable[[SamplingStep], None], every: int = 1
) -> AbstractContextManager[None]:
    """Call `tell` after every n-th step that a diffusers scheduler takes inside a block.

    What is sampled stays as it is, bit for bit.

    Args:
        scheduler: Takes velocities, as FlowMatchEuler does, and DPM-Solver and UniPC of `flow_prediction`.
        tell: Hears of the steps.
        every: Steps between calls.

    Raises:
        TunerError: The scheduler is none of that kind.
    """
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    if kind != "flow_prediction" or not (hasattr(scheduler, "sigmas") and hasattr(scheduler, "step_index")):
        raise TunerError(f"the scheduler {type(scheduler).__name__} takes no velocities, or keeps its sigmas to itself")
    return _watching(scheduler, tell, every)


@contextmanager
def _watching(scheduler: Any, tell: Callable[[SamplingStep], None], every: int) -> Iterator[None]:
    outer = scheduler.__dict__.get("step")
    take_step = scheduler.step
    taken = 0

    # Pipelines look at the parameters of the scheduler's method, which `wraps` lets them see.
    @functools.wraps(take_step)
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *more: Any, **named: Any) -> Any:
        nonlocal taken
        result = take_step(model_output, timestep, sample, *more, **named)
        taken += 1
        if taken % every == 0:
            tell(SamplingStep(taken, scheduler, model_output, sample))
        return result

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step
        if outer is not None:
            scheduler.step = outer


def _is_inverted(scheduler: Any) -> bool:
    """Whether its sigmas are shares of the picture, not of the noise; its outputs then point from noise to picture."""
    return bool(getattr(scheduler.config, "invert_sigmas", False))
