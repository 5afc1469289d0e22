"""Tensors that are shared out over processes: torch's DTensor, which `fully_shard` makes of a network's parameters.

Every function takes ordinary tensors as well, of which each process holds the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter
from torch.nn.utils import get_total_norm


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of it."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor; it shares memory with it. It may be empty."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Return what this process holds of a tensor that is shared out as another one is.

    Args:
        tensor: Shared out in that way already, or whole; if whole, the same in all processes.
        like: Says how.
    """
    if isinstance(tensor, DTensor) or not isinstance(like, DTensor):
        return local(tensor)
    # No source rank: each process cuts its part out of its own copy, and nothing is sent.
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()


def sharded_like(part: Tensor, like: Tensor) -> Tensor:
    """Take what each process holds for a part of a tensor that is shared out as another one of the same shape is."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Put tensors together, one after the other. All processes call it, with the same names in the same order.

    Args:
        tensors: By name. Those that are not shared out are returned as they are.
        keep: Whether this process wants them, on the CPU; otherwise it returns nothing.
    """
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        complete = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            whole[name] = complete
    return whole


def total_norm(tensors: Iterable[Tensor], order: float) -> Tensor:
    """Return the norm of all elements of some tensors: all shared out, or none. The device is not waited for.

    Args:
        tensors: At least one.
        order: 2, or infinity for the largest absolute value.
    """
    given = list(tensors)
    parts = [part for part in map(local, given) if part.numel()]
    norm = get_total_norm(parts, order) if parts else torch.zeros((), device=given[0].device)
    if not isinstance(given[0], DTensor):
        return norm
    group = given[0].device_mesh.get_group()
    if order == torch.inf:
        dist.all_reduce(norm, dist.ReduceOp.MAX, group=group)
        return norm
    power = norm.float() ** order
    dist.all_reduce(power, group=group)
    return (power ** (1 / order)).to(norm.dtype)


@contextmanager
def holding(named_parameters: Iterable[tuple[str, Parameter]], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let parameters hold other values, cast to their dtype, inside the block; restored bit for bit after it.

    They keep their memory: others may know it by its address, as what gathers a parameter from its shards does.

    Args:
        named_parameters: The parameters.
        values: Their values by name: whole, or shared out as they are.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for name, parameter in named_parameters:
            live = local(parameter.detach())
            kept.append((live, live.clone()))
            live.copy_(shard_of(values[name], parameter))
        yield
    finally:
        for live, before in kept:
            live.copy_(before)
