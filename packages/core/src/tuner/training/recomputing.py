"""Gradient checkpointing: blocks compute their activations again in the backward pass instead of keeping them."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from tuner.errors import TunerError


def recompute_blocks(denoiser: nn.Module, title: str, interval: int = 1) -> None:
    """Let a denoiser recompute the blocks whose number is a multiple of `interval`: all, half, a third.

    Blocks are numbered from 0, through all of the network, in the order in which it calls them.

    Args:
        denoiser: A diffusers model, or one that offers the same `enable_gradient_checkpointing`.
        title: The family's name for people.
        interval: Every which block.

    Raises:
        TunerError: The denoiser cannot recompute, or not some blocks alone.
    """
    enable = getattr(denoiser, "enable_gradient_checkpointing", None)
    if enable is None:
        raise TunerError(f"gradient_checkpointing: {title} cannot recompute activations\n    -> set it to false")
    if interval == 1:
        enable()
        return
    if "gradient_checkpointing_func" not in inspect.signature(enable).parameters:
        raise TunerError(
            f"gradient_checkpointing_interval: {title} recomputes all blocks or none, not every {interval}th\n"
            "    -> leave it out, or turn gradient_checkpointing off"
        )
    numbers: dict[Any, int] = {}

    def recompute_some(block: Any, *arguments: Any) -> Any:
        number = numbers.setdefault(block, len(numbers))
        if number % interval:
            return block(*arguments)
        return checkpoint(block, *arguments, use_reentrant=False)

    enable(gradient_checkpointing_func=recompute_some)
