"""Adding up what processes that train together have each worked out of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Parameter

from tuner.sharding import is_sharded
from tuner.training.batches import DrawnBatch
from tuner.training.guard import TakenStep
from tuner.training.processes import Processes

_TOGETHER = 2**25
"""Elements that are added up at once: enough to keep a connection busy, and little beside a model."""


@torch.no_grad()
def sum_gradients(parameters: Sequence[Parameter], processes: Processes) -> None:
    """Give every process the sum of the gradients of all; a parameter that has none anywhere keeps none.

    The losses are divided by the samples of the whole step, so the sum is the gradient of their mean, however many
    samples each process had. All processes end up with the same bits. Gradients of parameters that are shared out have
    been added up in the backward pass.
    """
    if processes.is_alone or any(map(is_sharded, parameters)):
        return
    present = processes.largest(torch.tensor([parameter.grad is not None for parameter in parameters]).to(torch.uint8))
    trained = [parameter for parameter, has_one in zip(parameters, present.tolist(), strict=True) if has_one]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for chunk in _chunks([parameter.grad for parameter in trained if parameter.grad is not None]):
        flat = processes.add_up(torch.cat([gradient.reshape(-1) for gradient in chunk]))
        parts = flat.split([gradient.numel() for gradient in chunk])
        torch._foreach_copy_(chunk, [part.view(gradient.shape) for part, gradient in zip(parts, chunk, strict=True)])


def _chunks(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one dtype and device, so many as are added up at once."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for gradient in gradients:
        kinds.setdefault((gradient.dtype, gradient.device), []).append(gradient)
    for same in kinds.values():
        chunk: list[Tensor] = []
        held = 0
        for gradient in same:
            if chunk and held + gradient.numel() > _TOGETHER:
                yield chunk
                chunk, held = [], 0
            chunk.append(gradient)
            held += gradient.numel()
        yield chunk


def sum_parts(parts: dict[str, Tensor], processes: Processes, device: torch.device) -> dict[str, Tensor]:
    """Return the sums of scalars by name. A process may lack some of them, as that of a data set it did not meet."""
    if processes.is_alone:
        return parts
    names = sorted({name for names in processes.gather(list(parts)) for name in names})
    if not names:
        return {}
    zero = torch.zeros((), device=device)
    sums = processes.add_up(torch.stack([parts.get(name, zero).float() for name in names]))
    return dict(zip(names, sums, strict=True))


def whole_step(taken: TakenStep, batches: Sequence[DrawnBatch], processes: Processes) -> TakenStep:
    """Return a step with the samples and losses of all processes.

    Args:
        taken: The step as this process took it.
        batches: All of its micro-batches, in the order in which a single process takes them.
        processes: All processes.
    """
    losses = [torch.zeros(len(batch.keys), device=taken.loss.device) for batch in batches]
    for position, own in zip(range(processes.rank, len(losses), processes.count), taken.losses, strict=True):
        losses[position] = own.float()
    summed = processes.add_up(torch.cat(losses)).split([len(batch.keys) for batch in batches])
    return replace(
        taken,
        keys=tuple(key for batch in batches for key in batch.keys),
        sigmas=tuple(batch.sigma for batch in batches),
        losses=tuple(summed),
    )
