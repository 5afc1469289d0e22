"""Making sure that losses, gradients and weights are finite, without waiting for the device more often than a log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tuner.errors import NonFiniteError
from tuner.training.processes import Processes

Culprit = Literal["loss", "gradient", "weights"]


@dataclass(frozen=True)
class TakenStep:
    """What is kept of an optimizer step until somebody reads it. Tensors are on the device unless said otherwise.

    Attributes:
        step: Number of the step, counted from 1.
        keys: Names of its samples; where several processes share them, those of this one, as in what follows.
        sigmas: Their sigmas, by micro-batch, on the CPU.
        losses: Their losses, by micro-batch.
        loss: The step's loss over all processes, a scalar.
        samples: Its samples, over all processes.
        learning_rate: Learning rate that the step used.
        gradient: Size of the gradient before clipping, where it was measured, a scalar.
    """

    step: int
    keys: tuple[str, ...]
    sigmas: tuple[Tensor, ...]
    losses: tuple[Tensor, ...]
    loss: Tensor
    samples: int
    learning_rate: float
    gradient: Tensor | None = None


class NonFiniteStepError(NonFiniteError):
    """A step gave a value that is not finite.

    Attributes:
        taken: The step.
        culprit: What is not finite.
    """

    def __init__(self, taken: TakenStep, culprit: Culprit, seed: int, value: float | None = None) -> None:
        self.taken = taken
        self.culprit = culprit
        self._seed, self._value = seed, value
        subject = {"loss": "the loss", "gradient": "the gradient", "weights": "the optimizer's update"}[culprit]
        found = "gives NaN or infinite weights" if value is None else f"is {value}"
        super().__init__(
            f"{subject} of step {taken.step} {found} (seed {seed}, samples {', '.join(taken.keys)})\n"
            "    -> the last checkpoint is unharmed; lower the learning rate, or look at these pictures"
        )

    def of(self, taken: TakenStep) -> NonFiniteStepError:
        """Return the same error with more known of its step."""
        return NonFiniteStepError(taken, self.culprit, self._seed, self._value)


@dataclass
class FiniteGuard:
    """Collects what steps leave on the device and, when asked, makes sure that it is finite.

    Asking makes an accelerator wait, so it happens at log intervals and before anything is saved. Gradients are judged
    by their size, in the steps that measure it: all of them if `grad_clip_method` is `norm`, logged ones if it is
    `value`. A NaN that comes between makes NaN of the weights, and so of the next loss or the next checkpoint, which
    is then not written; an infinite value is clamped like any other.
    """

    seed: int
    _pending: list[TakenStep] = field(default_factory=list)
    _last: TakenStep | None = None

    def add(self, taken: TakenStep) -> None:
        """Take note of a step."""
        self._pending.append(taken)
        self._last = taken

    def check(self) -> None:
        """Look at all steps that were added.

        Raises:
            NonFiniteStepError: For the first loss or gradient that is not finite.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        scalars = [value for taken in pending for value in (taken.loss, taken.gradient) if value is not None]
        if torch.isfinite(torch.stack([value.float() for value in scalars])).all():
            return
        for taken in pending:
            if not torch.isfinite(taken.loss):
                raise NonFiniteStepError(taken, "loss", self.seed, taken.loss.item())
            if taken.gradient is not None and not torch.isfinite(taken.gradient):
                raise NonFiniteStepError(taken, "gradient", self.seed, taken.gradient.item())

    def check_saved(self, tensors: Iterable[Tensor], processes: Processes) -> None:
        """Look at what is to be saved after the last step that was added.

        Args:
            tensors: What this process holds of it.
            processes: All processes; they find the same.

        Raises:
            NonFiniteStepError: It holds NaN or infinite values.
        """
        finite = all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())
        if processes.any(not finite) and self._last is not None:
            raise NonFiniteStepError(self._last, "weights", self.seed)
