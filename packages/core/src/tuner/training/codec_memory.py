"""Slicing and tiling of the autoencoder, where it has them."""

from __future__ import annotations

import logging

from torch import nn

from tuner.config.memory import MemoryConfig
from tuner.types import LatentCodec

logger = logging.getLogger(__name__)


def spare_codec(codec: LatentCodec, memory: MemoryConfig) -> None:
    """Turn on what `vae_enable_slicing` and `vae_enable_tiling` ask for, and say what the autoencoder has of it."""
    asked = {"slicing": memory.vae_enable_slicing, "tiling": memory.vae_enable_tiling}
    states = {name: _enable(codec.module, name) for name, wanted in asked.items() if wanted}
    if states:
        listed = ", ".join(f"{name} {'on' if on else 'not available'}" for name, on in states.items())
        if states.get("tiling") and (side := tile_side(codec.module)):
            listed += f" for pictures of more than {side} pixels along a side"
        level = logging.INFO if all(states.values()) else logging.WARNING
        logger.log(level, "autoencoder %s: %s", type(codec.module).__name__, listed)


def tile_side(module: nn.Module | None) -> int | None:
    """Return the side of an autoencoder's tiles in pixels, where it has tiles: smaller pictures are worked on whole."""
    sides = (getattr(module, name, None) for name in ("tile_sample_min_size", "tile_sample_min_height"))
    return next((side for side in sides if isinstance(side, int)), None)


def _enable(module: nn.Module, name: str) -> bool:
    """Return whether the autoencoder has it; diffusers' base class offers both for all, and refuses when asked."""
    enable = getattr(module, f"enable_{name}", None)
    try:
        if callable(enable):
            enable()
    except NotImplementedError:
        return False
    return callable(enable)
