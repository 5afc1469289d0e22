"""One optimizer step's mathematics: target, prediction, loss, backward. Written on velocities, for every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tuner.adapters.base import Trainable
from tuner.flow import expand_sigma, mix, velocity_loss
from tuner.training.batches import DrawnBatch, StepSize
from tuner.training.rollout import Rollout, integrate, start_sigma
from tuner.types import Batch, Components, Prediction


@dataclass(frozen=True)
class Learning:
    """What a step's mathematics works with.

    Attributes:
        hook: Hooks of the plugin manager.
        components: The model, its denoiser live.
        trainable: What of it is trained; knows the base model.
        device: Where the denoiser is.
        dtype: Compute dtype.
    """

    hook: Any
    components: Components
    trainable: Trainable
    device: torch.device
    dtype: torch.dtype

    def predict(self, batch: Batch) -> Prediction:
        """Ask the family for its velocity."""
        return self.hook.compute_loss(components=self.components, batch=batch)


def prepare_batch(learning: Learning, drawn: DrawnBatch) -> Batch:
    """Mix x and decide on the target: the flow's velocity, that after a rollout, or the base model's.

    Nothing here has a gradient.
    """
    batch = drawn.noised(learning.device, learning.dtype)
    with torch.no_grad():
        if drawn.rollout is not None:
            batch = roll_out(learning, batch, drawn, drawn.rollout)
        if drawn.regularisation:
            with learning.trainable.disabled():
                batch = replace(batch, target=learning.predict(batch).velocity.float())
    return batch


def roll_out(learning: Learning, batch: Batch, drawn: DrawnBatch, rollout: Rollout) -> Batch:
    """Start samples at more noise and let the model bring them to their sigma.

    The target becomes the velocity that leads from the state reached to the clean latent: (x - x0) / sigma.
    """

    def velocity(x: Tensor, sigma_B: Tensor) -> Tensor:
        return learning.predict(replace(batch, x=x.to(learning.dtype), sigma=sigma_B)).velocity.float()

    latents, noise = drawn.latents.to(learning.device), drawn.noise.to(learning.device)
    start = mix(latents, noise, start_sigma(drawn.sigma, rollout).to(learning.device))
    x = integrate(velocity, start, drawn.sigma, rollout)
    moved = expand_sigma(rollout.moves.to(learning.device) > 0, x)
    target = torch.where(moved, (x - latents) / expand_sigma(batch.sigma, x), batch.target)
    return replace(batch, x=torch.where(moved, x.to(learning.dtype), batch.x), target=target)


def sample_losses(learning: Learning, batch: Batch, mask: Tensor | None = None) -> tuple[Tensor, Prediction]:
    """Return the velocity loss of each sample, float32 of shape (B,), and the prediction it was made from.

    Args:
        learning: The model.
        batch: A prepared batch.
        mask: Mask of shape (B, 1, H, W) in [0, 1], or None.
    """
    prediction = learning.predict(batch)
    mask = _with_frames(mask, prediction.velocity)
    return velocity_loss(prediction.velocity, batch.target, prediction.weight, mask), prediction


@torch.no_grad()
def unweighted_losses(losses: Tensor, prediction: Prediction, batch: Batch, mask: Tensor | None = None) -> Tensor:
    """Return what `sample_losses` gives without the family's weight; `losses` is what it gave with it."""
    if prediction.weight is None:
        return losses.detach()
    return velocity_loss(prediction.velocity, batch.target, mask=_with_frames(mask, prediction.velocity))


def _with_frames(mask: Tensor | None, velocity: Tensor) -> Tensor | None:
    """Shape a mask (B, 1, H, W) so that it broadcasts over a velocity, which may have frames."""
    if mask is None:
        return None
    frames = [1] * (velocity.ndim - mask.ndim)
    return mask.view(mask.shape[0], 1, *frames, *mask.shape[-2:])


class StepLosses(NamedTuple):
    """The losses of a step, detached and still on the device.

    Attributes:
        total: The loss, a scalar.
        parts: Its parts and further metrics by name, scalars.
        samples: The velocity losses of each micro-batch's samples.
    """

    total: Tensor
    parts: dict[str, Tensor]
    samples: list[Tensor]


def backward_step(
    learning: Learning,
    micro_batches: Sequence[DrawnBatch],
    backward: Callable[[Tensor], None],
    size: StepSize | None = None,
    *,
    seeded: Callable[[int], AbstractContextManager[None]] = lambda number: nullcontext(),
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> StepLosses:
    """Accumulate the gradient of the mean loss over all samples of the step.

    Each sample counts the same, however the step is cut into micro-batches.

    Args:
        learning: The model.
        micro_batches: Those that this process takes.
        backward: Runs the backward pass of a loss.
        size: What all processes together take; what this one takes if not given. Gradient and losses are then the
            share of this process.
        seeded: Number of a micro-batch among these -> a block in which torch's global generators are seeded for it.
        seen: Gets sigma and unweighted losses of each micro-batch, but for those of regularisation data.
    """
    samples, regularised = size or StepSize.of(micro_batches)
    total = torch.zeros((), device=learning.device)
    parts: dict[str, Tensor] = {}
    all_losses: list[Tensor] = []
    for number, drawn in enumerate(micro_batches):
        mask = None if drawn.mask is None else drawn.mask.to(learning.device, non_blocking=True)
        with seeded(number):
            batch = prepare_batch(learning, drawn)
            losses, prediction = sample_losses(learning, batch, mask)
            share = len(drawn.keys) / samples
            loss = losses.sum() / samples
            if drawn.regularisation:
                _add(parts, "regularisation_loss", losses.detach().sum() / regularised)
            for name, auxiliary in prediction.auxiliary.items():
                loss = loss + share * auxiliary
                _add(parts, name, share * auxiliary.detach())
            for name, value in prediction.metrics.items():
                _add(parts, name, share * value.detach())
            backward(loss)
        total += loss.detach()
        all_losses.append(losses.detach())
        if seen is not None and not drawn.regularisation:
            seen(drawn.sigma, unweighted_losses(losses, prediction, batch, mask))
    return StepLosses(total, parts, all_losses)


def _add(parts: dict[str, Tensor], name: str, value: Tensor) -> None:
    parts[name] = parts[name] + value if name in parts else value
