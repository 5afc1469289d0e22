"""What saves memory changes no number: blocks that wait elsewhere, and an autoencoder that works picture by picture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from tuner.testing.family import FamilyUnderTest
from tuner.training.offloading import HOST, GroupOffload
from tuner.types import Batch


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
