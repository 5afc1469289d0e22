"""The blocks that a denoiser repeats."""

from __future__ import annotations

from torch import nn


def repeated_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """Return the blocks of the network's lists of blocks, in its order."""
    lists = [child for child in denoiser.children() if isinstance(child, (nn.ModuleList, nn.Sequential))]
    return [block for blocks in lists for block in blocks]
