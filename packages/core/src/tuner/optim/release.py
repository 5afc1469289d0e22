"""Steps within the backward pass: each gradient is used and freed as soon as it is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


def step_alone(optimizer: Optimizer, parameter: Parameter) -> None:
    """Step an optimizer that has this parameter only."""
    optimizer.step()


def step_within(optimizer: Any, parameter: Parameter) -> None:
    """Step a parameter of an optimizer that has one group and can step single parameters of it."""
    optimizer.step_param(parameter, optimizer.param_groups[0])


class ReleasedOptimizer(Optimizer):
    """Steps its parameters while the backward pass runs, so that hardly any gradients are in memory at a time.

    The weights become what they would after a step over all gradients, since the backward pass is done with a
    parameter when its gradient is complete. To the outside it looks like one optimizer: groups and state are those of
    its parts.
    """

    def __init__(
        self,
        parts: Iterable[Optimizer],
        step_one: Callable[[Optimizer, Parameter], None] = step_alone,
        clip_value: float = 0.0,
    ) -> None:
        """Take over optimizers that have not stepped yet, and hook into their parameters.

        Args:
            parts: The optimizers.
            step_one: Steps one parameter of one of them.
            clip_value: Limit of each element of a gradient; 0 for none.
        """
        self.parts = list(parts)
        super().__init__([parameter for part in self.parts for parameter in _parameters(part)], {})
        self.defaults = self.parts[0].defaults
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        for part in self.parts:
            part.state = self.state
        self._part_of = {parameter: part for part in self.parts for parameter in _parameters(part)}
        self._waiting = dict(self._part_of)
        self._step_one = step_one
        self._clip_value = clip_value
        self._largest: list[Tensor] | None = None
        self._discards = False
        for parameter in self._part_of:
            parameter.register_post_accumulate_grad_hook(self._release)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss itself: who cannot wait for a step cannot leave it out."""
        return loss

    def measure(self, wanted: bool) -> None:
        """Decide whether the gradients of the next backward pass are measured, which takes a pass over each."""
        self._largest = [] if wanted and self._clip_value else None

    def clip(self) -> dict[str, Tensor]:
        """Return `grad_max_abs`, the largest element before clipping, a scalar on the device; or nothing.

        The elements were clamped when they were used.
        """
        if not self._largest:
            return {}
        return {"grad_max_abs": torch.stack([value.float() for value in self._largest]).max()}

    @contextmanager
    def discarded(self) -> Iterator[None]:
        """Let backward passes inside the block step nothing; their gradients are freed all the same."""
        self._discards = True
        try:
            yield
        finally:
            self._discards = False

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """End a step: what has got no gradient takes its turn, as it does in a step over all parameters."""
        for parameter, part in self._waiting.items():
            self._step_one(part, parameter)
        self._waiting = dict(self._part_of)

    def _release(self, parameter: Tensor) -> None:
        assert isinstance(parameter, Parameter) and parameter.grad is not None
        if self._discards:
            parameter.grad = None
            return
        if self._largest is not None:
            self._largest.append(torch.linalg.vector_norm(parameter.grad, ord=torch.inf))
        if self._clip_value:
            parameter.grad.clamp_(-self._clip_value, self._clip_value)
        self._step_one(self._waiting.pop(parameter), parameter)
        parameter.grad = None


def _parameters(optimizer: Optimizer) -> list[Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
