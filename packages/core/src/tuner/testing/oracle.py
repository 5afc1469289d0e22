"""A network that knows the answer, for any family.

`compute_loss` says how a family speaks to its network. The diffusers pipeline is the truth about how the published
weights are sampled. The oracle takes its language from `compute_loss` alone and answers the pipeline in it
with the velocity towards a chosen latent x0. The pipeline ends at x0 only if the two agree in every respect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuner.testing.convention import Arguments, Convention, numbers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Oracle:
    """Answers the pipeline with the velocity (x - x0) / sigma.

    Attributes:
        convention: How to understand the pipeline and be understood.
        x0: The latent to lead to, a batch of one.
        scheduler: The pipeline's scheduler.
        sigmas: The sigmas asked about so far.
        noise: What x was mixed from: solves x = (1 - sigma) * x0 + sigma * noise at the first call.
    """

    convention: Convention
    x0: Tensor
    scheduler: Any
    sigmas: list[float] = field(default_factory=list)
    noise: Tensor | None = None

    def __call__(self, arguments: Arguments) -> Tensor:
        """Give the raw output for what the pipeline feeds."""
        x: Tensor = arguments[self.convention.x_name]
        sigma = self._sigma(numbers(arguments[self.convention.time_name]))
        x0 = self.x0.double().expand(x.shape[0], *self.x0.shape[1:]).reshape(x.shape)
        velocity = (x.double() - x0) / sigma
        if self.noise is None:
            self.noise = (x0 + velocity)[:1].reshape(self.x0.shape)
        self.sigmas.append(sigma)
        return self.convention.raw_for(velocity, x, sigma)

    def destination(self) -> Tensor:
        """Return the latent at which the pipeline must have ended.

        That is x0, except for a sampler that repeats its last sigma instead of going to 0: it is one in the
        coordinates x0 + s * noise and stops at s.
        """
        assert self.noise is not None, "the pipeline did not call the denoiser"
        last, before = (float(value) for value in (self.scheduler.sigmas[-1], self.scheduler.sigmas[-2]))
        return self.x0 + last * self.noise if last == before else self.x0.double()

    def _sigma(self, times: Tensor) -> float:
        assert bool((times == times[0]).all()), "the pipeline feeds different times for one picture"
        time = float(times[0])
        assert time == time, "the pipeline feeds a time that is not a number"
        sigma = self.convention.sigma_of(time)
        if not self.scheduler.timesteps.is_floating_point():
            sigma = self._unrounded(sigma)
        assert sigma > 1e-6, f"by compute_loss, the pipeline asks about a clean latent: time {time:g} means sigma 0"
        return sigma

    def _unrounded(self, sigma: float) -> float:
        """Look sigma up in the scheduler's table: this scheduler rounds its times to whole numbers."""
        table = self.scheduler.sigmas.double()
        nearest = float(table[(table - sigma).abs().argmin()])
        step = 1.0 / self.scheduler.config.num_train_timesteps
        assert abs(nearest - sigma) <= step * 1.01, (
            f"the pipeline's time means sigma {sigma:.4f} by compute_loss, but the scheduler is at {nearest:.4f}"
        )
        return nearest
