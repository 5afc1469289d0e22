"""What becomes of gradients between a backward pass and the optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from tuner.config.optimisation import OptimisationConfig
from tuner.optim.clipping import clip_gradients
from tuner.optim.release import ReleasedOptimizer


class Gradients(Protocol):
    """The gradients of a run, whether they wait for the optimizer's step or are used up in the backward pass."""

    def measure(self, wanted: bool) -> None:
        """Decide whether the next step's gradients are measured where that takes a pass over all of them."""

    def clip(self) -> dict[str, Tensor]:
        """Limit the gradients of a step after its last backward pass, unless that was done within it.

        Returns:
            The size before clipping, a scalar on the device, by the name of the measure; nothing if none was taken.
        """

    def discarded(self) -> AbstractContextManager[None]:
        """Let backward passes inside the block step nothing; no gradient is left after it."""


class KeptGradients:
    """Gradients that are in memory until the optimizer has stepped."""

    def __init__(self, parameters: Sequence[Parameter], method: Literal["value", "norm"], limit: float) -> None:
        """Take over the gradients of parameters; method and limit are those of `clip_gradients`."""
        self._parameters = parameters
        self._method = method
        self._limit = limit
        self._measured = True

    def measure(self, wanted: bool) -> None:
        """See `Gradients`. The L2 norm is taken in any case: it is needed for scaling."""
        self._measured = wanted

    def clip(self) -> dict[str, Tensor]:
        """See `Gradients`."""
        return clip_gradients(self._parameters, self._method, self._limit, measure=self._measured)

    @contextmanager
    def discarded(self) -> Iterator[None]:
        """See `Gradients`."""
        try:
            yield
        finally:
            for parameter in self._parameters:
                parameter.grad = None


def gradients_of(optimizer: Optimizer, optimisation: OptimisationConfig) -> Gradients:
    """Return what treats the gradients of an optimizer's parameters as the settings say."""
    if isinstance(optimizer, ReleasedOptimizer):
        return optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return KeptGradients(parameters, optimisation.grad_clip_method, optimisation.gradient_limit)
