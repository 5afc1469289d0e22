"""Blocks that are compiled one by one learn what they learn as they are."""

from __future__ import annotations

import torch
import torch._dynamo
from torch._dynamo.utils import counters

from tuner.testing.family import FamilyUnderTest
from tuner.testing.learning import KINDS, learner, train
from tuner.training.compiling import compile_blocks

_TOLERANCE = 1e-5
"""Largest relative error of what is learnt; the tracing backend computes with the same kernels."""


def test_compiled_blocks_learn_the_same(family: FamilyUnderTest) -> None:
    """A standard LoRA learns the same, with checkpointing, and nothing is compiled anew for other noise.

    A family whose blocks cannot be compiled says why in `FamilyFacts.uncompilable`.
    """
    if family.facts.uncompilable:
        return
    torch._dynamo.reset()
    counters.clear()
    learners = [learner(family, KINDS["standard"]) for _ in range(2)]
    plain, compiled = learners
    for each in learners:
        each.trainable.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    compile_blocks(compiled.trainable.denoiser, "aot_eager", family.facts.title)
    train(family, compiled, 0, 1)
    programs = counters["stats"]["unique_graphs"]
    assert programs, "no block was compiled"
    train(family, compiled, 1, 3)
    assert counters["stats"]["unique_graphs"] == programs, "blocks are compiled anew for a batch of the same shape"
    train(family, plain, 0, 3)
    for (name, value), (_, expected) in zip(
        compiled.trainable.named_parameters(), plain.trainable.named_parameters(), strict=True
    ):
        error = float((value - expected).norm() / expected.norm().clamp_min(1e-6))
        assert error <= _TOLERANCE, f"{name} differs by {error:.1e}"
