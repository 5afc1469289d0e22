"""What is compiled, and what cannot be compiled together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuner.config.launch import LaunchConfig
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.precision import PrecisionConfig
from tuner.config.validation import ValidationConfig
from tuner.errors import Problem
from tuner.types import FamilyFacts

OFF = "no"
UNPROVEN = "turn it off, or set i_know_what_i_am_doing to try it"


def training_backend(launch: LaunchConfig) -> str | None:
    """Return what compiles the denoiser's blocks while it is trained."""
    return None if launch.dynamo_backend == OFF else launch.dynamo_backend


def picture_backend(launch: LaunchConfig, validation: ValidationConfig) -> str | None:
    """Return what compiles them while pictures are sampled: the same as in training, or inductor."""
    if not validation.validation_torch_compile or not validation.validation_step_interval:
        return None
    return training_backend(launch) or "inductor"


def compiling_problems(topics: Mapping[str, Any], facts: FamilyFacts) -> Iterator[Problem]:
    """Check whether the family's blocks, as they are stored and moved, can be compiled."""
    launch: LaunchConfig | None = topics.get("launch")
    validation: ValidationConfig | None = topics.get("validation")
    wanted = {
        "dynamo_backend": launch is not None and launch.dynamo_backend != OFF,
        "validation_torch_compile": validation is not None and validation.validation_torch_compile,
    }
    for key in (key for key, compiles in wanted.items() if compiles):
        if facts.uncompilable:
            yield Problem(f"{facts.title} cannot be compiled: {facts.uncompilable}", key=key, remedy="turn it off")
        else:
            yield from _unproven(key, topics)


def _unproven(key: str, topics: Mapping[str, Any]) -> Iterator[Problem]:
    model: ModelConfig | None = topics.get("model")
    memory: MemoryConfig | None = topics.get("memory")
    precision: PrecisionConfig | None = topics.get("precision")
    if model and model.i_know_what_i_am_doing:
        return
    if memory and memory.enable_group_offload:
        yield Problem("compiling blocks that enable_group_offload moves is not proven", key=key, remedy=UNPROVEN)
    stored = precision.base_model_precision if precision else "no_change"
    if stored != "no_change":
        yield Problem(f"compiling blocks that are stored as {stored} is not proven", key=key, remedy=UNPROVEN)
