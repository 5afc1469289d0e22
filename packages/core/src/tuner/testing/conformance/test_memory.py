"""What saves memory: blocks that wait elsewhere and slices change no number, tiles no more than their seams need."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tuner.randomness import normal_tensor
from tuner.testing.family import FamilyUnderTest
from tuner.training.codec_memory import tile_side
from tuner.training.offloading import HOST, GroupOffload
from tuner.types import Batch

_TILING = 0.3
"""Relative error of L2 norms. A tile knows nothing of what lies beyond it: convolutions see zeros there, normalisation
and attention only the tile, and overlaps are blended. The twins' random weights show 0.12 to 0.19, and more on smaller
tiles; tiles in wrong places are off by more than 1."""

_TILE = 256
"""Least side of the tiles in pixels: published autoencoders have this and more, a twin's configuration may say less."""


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_offloaded_blocks_compute_the_same(
    family: FamilyUnderTest, tmp_path: Path, kind: Literal["block_level", "leaf_level"], recompute: bool
) -> None:
    """Weights that are on the disk outside their layer's forward pass give the same velocity and gradient, exactly.

    Between the passes no value is in memory, so whatever reads a weight anywhere else fails.
    """
    velocity, gradient = _gradient(family, None, recompute)
    offloaded, same = _gradient(family, GroupOffload(kind, blocks=2, folder=tmp_path), recompute)
    assert torch.equal(offloaded, velocity)
    assert torch.equal(same, gradient), "the gradient that reaches x depends on where weights wait"


@torch.no_grad()
def test_slices_are_the_pictures(family: FamilyUnderTest) -> None:
    """An autoencoder that has slicing encodes each picture of a batch as it encodes it alone, bit for bit."""
    codec = family.load("codec").codec
    assert codec is not None
    if not hasattr(codec.module, "use_slicing"):
        return
    pixels = family.pictures(2, family.side, family.side)
    alone = torch.cat([codec.encode(picture[None]) for picture in pixels])
    codec.module.enable_slicing()  # type: ignore[operator]
    assert torch.equal(codec.encode(pixels), alone)


@torch.no_grad()
def test_tiles_are_nearly_the_whole(family: FamilyUnderTest) -> None:
    """An autoencoder that has tiles gives nearly what it gives as a whole, encoding and decoding."""
    codec = family.load("codec").codec
    assert codec is not None
    module: Any = codec.module
    tile = tile_side(module)
    if tile is None:
        return
    if hasattr(module, "tile_sample_min_size") and tile < _TILE:
        module.tile_latent_min_size = _TILE * module.tile_latent_min_size // tile
        module.tile_sample_min_size = tile = _TILE
    # Two tiles overlap, and the second one is not whole.
    alignment = family.facts.pixel_alignment
    side = -(-3 * tile // (2 * alignment)) * alignment
    # Detail everywhere, so that a tile is like the whole.
    coarse = normal_tensor((1, 3, side // 8, side // 8), 0, "tiles")
    pixels = torch.tanh(F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False))
    calls: Counter[str] = Counter()
    for name in ("encoder", "decoder"):
        getattr(module, name).register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    latents = codec.encode(pixels)
    decoded = codec.decode(latents)
    assert calls == {"encoder": 1, "decoder": 1}
    module.enable_tiling()
    for name, tiled, whole in (("encoder", codec.encode(pixels), latents), ("decoder", codec.decode(latents), decoded)):
        assert calls[name] >= 1 + 4, f"the {name} works in {calls[name] - 1} tiles on {side} x {side} pixels"
        assert tiled.shape == whole.shape
        error = float((tiled - whole).norm() / whole.norm())
        assert 0 < error <= _TILING, f"in tiles the {name} is off by {error:.1%}"


def _gradient(family: FamilyUnderTest, offload: GroupOffload | None, recompute: bool) -> tuple[Tensor, Tensor]:
    """Return the velocity, and the gradient of its mean square with respect to x; all weights are frozen."""
    components = family.load("denoiser")
    denoiser = components.denoiser
    assert denoiser is not None
    denoiser.train().requires_grad_(False)
    if offload is not None:
        offload.apply(denoiser, HOST)
    if recompute:
        denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    batch = family.batch((0.2, 0.6))
    x = batch.x.requires_grad_()
    velocity = family.predict(Batch(x, batch.sigma, batch.target, batch.conditioning), components).velocity
    velocity.square().mean().backward()
    assert x.grad is not None, "no gradient reaches x"
    return velocity.detach(), x.grad
