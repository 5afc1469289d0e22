"""A denoiser that is shared out over processes learns what it learns whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from tuner.optim.optimizers import create_optimizer
from tuner.sharding import gathered
from tuner.testing.family import FamilyUnderTest
from tuner.testing.learning import KINDS, adapt, learner, train
from tuner.training.loop import Learner
from tuner.training.processes import Processes
from tuner.training.sharded import shard_denoiser

_TOLERANCE = 1e-6
"""Largest relative error of what is learnt."""


@pytest.fixture
def alone() -> Iterator[Processes]:
    """A group of this process alone: it puts weights together, frees them and adds up gradients as a larger one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield Processes()
    dist.destroy_process_group()


@pytest.mark.parametrize("frees", [True, False])
def test_a_shared_out_denoiser_learns_the_same(family: FamilyUnderTest, alone: Processes, frees: bool) -> None:
    """All weights learn the same, with checkpointing. Weights that are used outside of the network would not."""
    kind = KINDS["full"]
    plain = learner(family, kind)
    components = family.load("denoiser")
    trainable = adapt(family, components, kind)
    for denoiser in (plain.trainable.denoiser, trainable.denoiser):
        denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    cpu = torch.device("cpu")
    sharded = shard_denoiser(trainable.denoiser, alone, cpu, family.facts.title, frees=frees)
    optimizer = create_optimizer(
        "optimi-adamw", trainable.named_parameters(), kind.learning_rate, dtype=torch.float32, sharded=True
    )
    shared = Learner(components, trainable, optimizer, sharded=sharded)
    for each in (plain, shared):
        train(family, each, 0, 2)
    for (name, value), (_, expected) in zip(
        trainable.named_parameters(), plain.trainable.named_parameters(), strict=True
    ):
        whole = gathered({name: value.detach()}, keep=True)[name]
        error = float((whole - expected.detach()).norm() / expected.detach().norm().clamp_min(1e-6))
        assert error <= _TOLERANCE, f"{name} differs by {error:.1e}"
