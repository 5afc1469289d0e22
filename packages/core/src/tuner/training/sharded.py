"""Sharing a denoiser out over processes, so that a model trains that no device holds with its optimizer.

Torch's FSDP2 does it: each process holds a part of every weight, with its gradient and the optimizer's state. A block
is put together for as long as it computes, and gradients are added up on their way back to the parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tuner.errors import TunerError
from tuner.training.blocks import repeated_blocks
from tuner.training.processes import Processes


@dataclass(frozen=True)
class ShardedDenoiser:
    """A denoiser that is shared out. Its forward pass needs all processes, unless it is whole.

    Attributes:
        parts: What is put together at a time: the blocks, and the network with all that is outside of them.
        frees: Whether a block is taken apart between forward and backward pass.
    """

    parts: tuple[FSDPModule, ...]
    frees: bool

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let every process hold all weights inside the block, so that one can compute alone.

        All processes enter and leave it. Inside, the network's parameters are others than those that train.
        """
        try:
            for part in self.parts:
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()
            yield
        finally:
            *blocks, network = self.parts
            for part in blocks:
                part.set_reshard_after_forward(self.frees, recurse=False)
            for part in (*blocks, network):
                part.reshard()


def shard_denoiser(
    denoiser: nn.Module, processes: Processes, device: torch.device, title: str, *, frees: bool
) -> ShardedDenoiser:
    """Share a denoiser's weights out over all processes, each of which holds the whole of them before.

    Args:
        denoiser: The network, in the host's memory or on the device; its parts end up on the device.
        processes: All processes.
        device: The device of this one.
        title: The family's name for people.
        frees: Whether a block is taken apart between forward and backward pass, which costs that it is put together
            once more.

    Raises:
        TunerError: Weights of one block have several dtypes.
    """
    dtypes = {parameter.dtype for parameter in denoiser.parameters()}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise TunerError(
            f"fsdp_enable: weights of {title} are of several types ({names}), and what is gathered together must be of "
            "one\n    -> set it to false, or mixed_precision to no"
        )
    # Nothing hangs on the hook that changing the network's output in place drops: its own weights stay together until
    # the backward pass. Of a block, that would fail in the backward pass, since its weights are gone.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (processes.count,))
    network: Any = denoiser
    parts = [*repeated_blocks(denoiser), network]
    for part in parts:
        fully_shard(part, mesh=mesh, reshard_after_forward=frees and part is not network)
        # Losses are divided by the samples of the whole step already, so gradients are to be added up.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    return ShardedDenoiser(tuple(parts), frees)
