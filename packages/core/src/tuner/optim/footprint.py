"""How much memory an optimizer's state will take, known before there is any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import Parameter

from tuner.optim.optimizers import optimizer_maker
from tuner.optim.state import optimizer_state
from tuner.randomness import seeded_torch


def state_bytes(
    name: str, dtype: torch.dtype, device: torch.device, arguments: Mapping[str, Any] | None = None
) -> float:
    """Return how many bytes of state an optimizer keeps on the device for each weight, once it has stepped.

    It is measured on a matrix of 512 x 512. What the device moves to the host by itself does not count.

    Args:
        name: As `create_optimizer` takes it.
        dtype: Of the weights.
        device: Where they are.
        arguments: Arguments of the class that replace the defaults.
    """
    weight = Parameter(torch.zeros(512, 512, dtype=dtype, device=device))
    weight.grad = torch.ones_like(weight)
    optimizer = optimizer_maker(name, device, dtype, arguments)([("weight", weight)], lr=1e-4)
    # What would be compiled for larger weights need not be for this one.
    with seeded_torch(0, "footprint"), torch.compiler.set_stance("force_eager"):
        optimizer.step()
    tensors, _ = optimizer_state(optimizer)
    kept = {
        tensor.data_ptr(): tensor.nbytes
        for tensor in tensors.values()
        if tensor.device == weight.device and not getattr(tensor, "is_paged", False)
    }
    return sum(kept.values()) / weight.numel()
