"""The exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from tuner.errors import CheckpointError


def decay_at(step: int, limit: float) -> float:
    """Return the decay of the update after optimizer step `step`, counted from 1.

    `min((1 + s) / (10 + s), limit)` with s = step - 1, but 0 for the first step: averages start from trained weights.
    """
    s = step - 1
    return 0.0 if s <= 0 else min((1 + s) / (10 + s), limit)


class MovingAverage:
    """Float32 averages ("shadows") of parameters, on the parameters' devices."""

    def __init__(self, named_parameters: Sequence[tuple[str, Parameter]], decay: float, interval: int = 1) -> None:
        """Start from the present values.

        Args:
            named_parameters: What is averaged.
            decay: Upper bound of the decay, in [0, 1).
            interval: Optimizer steps between updates.
        """
        self._parameters = dict(named_parameters)
        self._decay = decay
        self._interval = interval
        self._shadows = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights after optimizer step `step`, counted from 1."""
        if step % self._interval:
            return
        decay = decay_at(step, self._decay)
        shadows = list(self._shadows.values())
        # The same as shadow -= (1 - decay) * (shadow - parameter), without a float32 copy of all parameters.
        torch._foreach_mul_(shadows, decay)
        torch._foreach_add_(shadows, [p.detach() for p in self._parameters.values()], alpha=1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return the averages by parameter name. They are the live tensors, not copies."""
        return dict(self._shadows)

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned.

        Raises:
            CheckpointError: Names or shapes differ from those of the parameters.
        """
        if wrong := sorted(
            name
            for name in state.keys() | self._shadows.keys()
            if name not in state or name not in self._shadows or state[name].shape != self._shadows[name].shape
        ):
            raise CheckpointError(
                f"the checkpoint's moving average does not fit this run: {', '.join(wrong[:3])} "
                f"({len(wrong)} in all) differ; resume with the settings of the run that wrote it"
            )
        for name, shadow in self._shadows.items():
            shadow.copy_(state[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the parameters hold the averages, in their own dtype, inside the block; restored bit for bit after it."""
        kept = [(parameter, parameter.data) for parameter in self._parameters.values()]
        try:
            for name, parameter in self._parameters.items():
                parameter.data = self._shadows[name].to(parameter.dtype, copy=True)
            yield
        finally:
            for parameter, values in kept:
                parameter.data = values
