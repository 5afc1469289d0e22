"""What is compiled, and what cannot be compiled together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuner.config.launch import LaunchConfig
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.partial import as_far_as_known
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
    yield from _of_training(topics, facts)
    yield from _of_pictures(topics, facts)


@as_far_as_known
def _of_training(topics: Mapping[str, Any], facts: FamilyFacts) -> Iterator[Problem]:
    launch: LaunchConfig = topics["launch"]
    if launch.dynamo_backend != OFF:
        yield from _blocks("dynamo_backend", topics, facts)


@as_far_as_known
def _of_pictures(topics: Mapping[str, Any], facts: FamilyFacts) -> Iterator[Problem]:
    validation: ValidationConfig = topics["validation"]
    if validation.validation_torch_compile:
        yield from _blocks("validation_torch_compile", topics, facts)


def _blocks(key: str, topics: Mapping[str, Any], facts: FamilyFacts) -> Iterator[Problem]:
    model: ModelConfig = topics["model"]
    memory: MemoryConfig = topics["memory"]
    precision: PrecisionConfig = topics["precision"]
    if facts.uncompilable:
        yield Problem(f"{facts.title} cannot be compiled: {facts.uncompilable}", key=key, remedy="turn it off")
        return
    if model.i_know_what_i_am_doing:
        return
    if memory.enable_group_offload:
        yield Problem("compiling blocks that enable_group_offload moves is not proven", key=key, remedy=UNPROVEN)
    if precision.mixed_precision == "fp16":
        yield Problem("compiling blocks that compute in float16 is not proven", key=key, remedy=UNPROVEN)
    stored = precision.base_model_precision
    if stored != "no_change":
        yield Problem(f"compiling blocks that are stored as {stored} is not proven", key=key, remedy=UNPROVEN)
