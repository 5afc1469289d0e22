"""One optimizer step's mathematics: prediction, loss, backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tuner.errors import NonFiniteError
from tuner.flow import velocity_loss
from tuner.training.batches import DrawnBatch
from tuner.types import Batch, Components, Prediction


def sample_losses(hook: Any, components: Components, batch: Batch) -> tuple[Tensor, Prediction]:
    """Return the velocity loss of each sample, float32 of shape (B,), and the prediction it was made from."""
    prediction: Prediction = hook.compute_loss(components=components, batch=batch)
    return velocity_loss(prediction.velocity, batch.target, prediction.weight), prediction


def backward_step(
    hook: Any,
    components: Components,
    micro_batches: Sequence[DrawnBatch],
    *,
    device: torch.device,
    dtype: torch.dtype,
    backward: Callable[[Tensor], None],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Accumulate the gradient of the mean loss over all samples of the step.

    Each sample counts the same, however the step is cut into micro-batches.

    Returns:
        The loss and its auxiliary parts by name, detached scalars still on the device.
    """
    samples = sum(len(batch.keys) for batch in micro_batches)
    total = torch.zeros((), device=device)
    parts: dict[str, Tensor] = {}
    for drawn in micro_batches:
        losses, prediction = sample_losses(hook, components, drawn.noised(device, dtype))
        share = len(drawn.keys) / samples
        loss = losses.sum() / samples
        for name, auxiliary in prediction.auxiliary.items():
            loss = loss + share * auxiliary
            parts[name] = parts.get(name, 0) + share * auxiliary.detach()
        backward(loss)
        total += loss.detach()
    return total, parts


@dataclass
class FiniteGuard:
    """Collects losses on the device and, when asked, makes sure that all are finite.

    Asking makes an accelerator wait, so it happens at log intervals and before anything is saved.
    """

    seed: int
    _pending: list[tuple[int, Tensor, tuple[str, ...]]] = field(default_factory=list)

    def add(self, step: int, loss: Tensor, micro_batches: Sequence[DrawnBatch]) -> None:
        """Note the loss of a step."""
        self._pending.append((step, loss, tuple(key for batch in micro_batches for key in batch.keys)))

    def check(self) -> None:
        """Raise NonFiniteError for the first step whose loss was not finite, naming its samples."""
        if not self._pending:
            return
        finite = torch.isfinite(torch.stack([loss for _, loss, _ in self._pending])).tolist()
        pending, self._pending = self._pending, []
        for (step, loss, keys), fine in zip(pending, finite, strict=True):
            if not fine:
                raise NonFiniteError(
                    f"the loss of step {step} is {loss.item()} (seed {self.seed}, samples {', '.join(keys)})\n"
                    "    -> the last checkpoint is unharmed; lower the learning rate, or look at these pictures"
                )
