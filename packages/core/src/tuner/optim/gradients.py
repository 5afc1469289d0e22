"""What becomes of gradients between a backward pass and the optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

from torch import Tensor
from torch.optim import Optimizer

from tuner.config.optimisation import OptimisationConfig
from tuner.optim.clipping import clip_gradients
from tuner.optim.release import ReleasedOptimizer
from tuner.optim.scaling import LossScale


class Gradients(Protocol):
    """The gradients of a run, whether they wait for the optimizer's step or are used up in the backward pass."""

    def scaled(self, loss: Tensor) -> Tensor:
        """Return what the backward pass of a loss begins with."""

    def measure(self, wanted: bool) -> None:
        """Decide whether the next step's gradients are measured where that takes a pass over all of them."""

    def clip(self) -> dict[str, Tensor]:
        """Limit the gradients of a step after its last backward pass, unless that was done within it.

        Returns:
            The size before clipping, a scalar on the device, by the name of the measure; nothing if none was taken.
        """

    def step(self) -> bool | None:
        """Let the optimizer step. False says that it did not, since gradients overflowed."""

    def discarded(self) -> AbstractContextManager[None]:
        """Let backward passes inside the block step nothing; no gradient is left after it."""


class KeptGradients:
    """Gradients that are in memory until the optimizer has stepped."""

    def __init__(
        self, optimizer: Optimizer, method: Literal["value", "norm"], limit: float, scale: LossScale | None = None
    ) -> None:
        """Take over the gradients of an optimizer's parameters; method and limit are those of `clip_gradients`."""
        self._optimizer = optimizer
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._scale = scale
        self._method = method
        self._limit = limit
        self._measured = True

    def scaled(self, loss: Tensor) -> Tensor:
        """See `Gradients`."""
        return self._scale.scaled(loss) if self._scale else loss

    def measure(self, wanted: bool) -> None:
        """See `Gradients`. The L2 norm is taken in any case: it is needed for scaling."""
        self._measured = wanted

    def clip(self) -> dict[str, Tensor]:
        """See `Gradients`."""
        if self._scale:
            self._scale.unscale(self._optimizer)
        return clip_gradients(self._parameters, self._method, self._limit, measure=self._measured)

    def step(self) -> bool:
        """See `Gradients`."""
        if self._scale:
            return self._scale.step(self._optimizer)
        self._optimizer.step()
        return True

    @contextmanager
    def discarded(self) -> Iterator[None]:
        """See `Gradients`."""
        try:
            yield
        finally:
            for parameter in self._parameters:
                parameter.grad = None


def gradients_of(optimizer: Optimizer, optimisation: OptimisationConfig, scale: LossScale | None = None) -> Gradients:
    """Return what treats the gradients of an optimizer's parameters as the settings say, with a loss scale if any."""
    if isinstance(optimizer, ReleasedOptimizer):
        return optimizer
    return KeptGradients(optimizer, optimisation.grad_clip_method, optimisation.gradient_limit, scale)
