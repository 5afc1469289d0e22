"""Rules that concern more than one setting."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.config.adapter import AdapterConfig
from tuner.config.attention import DIFFUSERS, KERNELS
from tuner.config.compiling import compiling_problems
from tuner.config.dataset_file import is_folder
from tuner.config.evaluation import EvaluationConfig
from tuner.config.flow import FlowConfig
from tuner.config.keys import Given
from tuner.config.launch import launch_problems
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.optimisation_checks import optimisation_conflicts, optimisation_warnings
from tuner.config.partial import as_far_as_known
from tuner.config.precision import PrecisionConfig
from tuner.config.sharding import sharding_problems
from tuner.config.storage import storage_problems
from tuner.config.validation import ValidationConfig
from tuner.errors import Problem
from tuner.plugins import Family
from tuner.types import FamilyFacts


def conflicts(topics: Mapping[str, Any], given: Mapping[str, Given], family: Family) -> list[Problem]:
    """Check what only several settings together can violate; what depends on a refused setting is left out."""
    memory: MemoryConfig = topics["memory"]
    found = [
        *_model(topics["model"], family.facts),
        *optimisation_conflicts(topics["optimisation"], topics["precision"]),
        *_flow(topics["flow"]),
        *storage_problems(topics, family),
        *_two_offloads(memory),
        *_offload(memory, topics["model"]),
        *_stored_offload(memory, topics["model"], topics["precision"]),
        *_kernel(memory),
        *_kernel_format(memory, topics["precision"]),
        *launch_problems(topics["launch"], topics["optimisation"]),
        *_sharding(topics),
        *_evaluation(topics["evaluation"]),
        *compiling_problems(topics, family.facts),
    ]
    return [
        Problem(problem.message, given[problem.key].origin if problem.key and problem.key in given else "configuration",
                problem.key, problem.remedy)
        for problem in found
    ]  # fmt: skip


def warnings(topics: Mapping[str, Any], facts: FamilyFacts) -> Iterator[str]:
    """Name settings that are allowed but surprise people."""
    optimisation: OptimisationConfig = topics["optimisation"]
    model: ModelConfig = topics["model"]
    adapter: AdapterConfig = topics["adapter"]
    validation: ValidationConfig = topics["validation"]
    flavour = facts.flavours.get(model.model_flavour or "")
    if flavour and flavour.warning:
        yield f"model_flavour {model.model_flavour}: {flavour.warning}"
    yield from optimisation_warnings(optimisation, topics["precision"])
    if optimisation.caption_dropout_probability == 0:
        yield "caption_dropout_probability is 0: the model never sees the empty caption, and guidance suffers for it"
    if (
        model.model_type == "lora"
        and adapter.lora_type == "standard"
        and adapter.lora_alpha not in (None, adapter.lora_rank)
    ):
        yield (
            f"lora_alpha {adapter.lora_alpha} differs from lora_rank {adapter.lora_rank}: "
            "the adapter file holds the alpha, but some samplers ignore it"
        )
    memory: MemoryConfig = topics["memory"]
    if memory.enable_group_offload and not optimisation.gradient_checkpointing:
        yield (
            "enable_group_offload without gradient_checkpointing spares memory only while pictures are made: "
            "a training step keeps every block until its backward pass"
        )
    yield from _picture_sizes(validation, facts)


def _picture_sizes(validation: ValidationConfig, facts: FamilyFacts) -> Iterator[str]:
    for width, height in validation.sizes():
        made = aligned_size(width, height, facts)
        if facts.canvas_limit and width * height > facts.canvas_limit:
            yield (
                f"validation_resolution {width}x{height} has more than the {facts.canvas_limit} pixels that "
                f"{facts.title} takes; pictures are made at {made[0]}x{made[1]}"
            )
        elif (width, height) != made:
            yield f"validation_resolution {width}x{height} is rounded to {made[0]}x{made[1]}"


def aligned_size(width: int, height: int, facts: FamilyFacts) -> tuple[int, int]:
    """Round a picture size to the multiples that the family needs, at least one of them along each side.

    A size beyond the family's canvas limit shrinks to it and keeps its shape.
    """
    unit = facts.latent_stride * facts.patch_size
    rounded = max(unit, round(width / unit) * unit), max(unit, round(height / unit) * unit)
    if facts.canvas_limit is None or rounded[0] * rounded[1] <= facts.canvas_limit:
        return rounded
    scale = min(1.0, math.sqrt(facts.canvas_limit / (width * height)))
    # The longer side takes what is left, should a very narrow shape need more than its share of the shorter one.
    shorter = max(unit, int(min(width, height) * scale / unit) * unit)
    longer = max(unit, min(int(max(width, height) * scale), facts.canvas_limit // shorter) // unit * unit)
    return (longer, shorter) if width > height else (shorter, longer)


@as_far_as_known
def _model(model: ModelConfig, facts: FamilyFacts) -> Iterator[Problem]:
    if model.model_flavour and model.model_flavour not in facts.flavours:
        listed = ", ".join(facts.flavours)
        yield Problem(f"{model.model_flavour!r} is no flavour of {facts.title} (one of: {listed})", key="model_flavour")


@as_far_as_known
def _flow(flow: FlowConfig) -> Iterator[Problem]:
    densities = ("flow_use_uniform_schedule", "flow_use_beta_schedule", "flow_cubic_schedule_weights")
    chosen = [name for name in densities if getattr(flow, name)]
    if len(chosen) > 1:
        yield Problem(f"{' and '.join(chosen)} exclude each other", key=chosen[-1], remedy="turn one of them off")


@as_far_as_known
def _sharding(topics: Mapping[str, Any]) -> Iterator[Problem]:
    if topics["sharding"].fsdp_enable:
        yield from sharding_problems(topics)


@as_far_as_known
def _kernel(memory: MemoryConfig) -> Iterator[Problem]:
    kernel = KERNELS.get(memory.attention_mechanism)
    if kernel and not kernel.installed:
        yield Problem(
            f"{memory.attention_mechanism} needs the package {kernel.package}, which is not installed",
            key="attention_mechanism",
            remedy=f"install it, or use {DIFFUSERS}",
        )


@as_far_as_known
def _kernel_format(memory: MemoryConfig, precision: PrecisionConfig) -> Iterator[Problem]:
    kernel = KERNELS.get(memory.attention_mechanism)
    if kernel and kernel.bf16 and precision.mixed_precision == "no":
        yield Problem(
            f"{memory.attention_mechanism} takes no float32, which mixed_precision no asks for",
            key="attention_mechanism",
            remedy="use native, or mixed_precision bf16",
        )


@as_far_as_known
def _evaluation(evaluation: EvaluationConfig) -> Iterator[Problem]:
    if evaluation.evaluation_type == "none":
        return
    key, named = "pretrained_evaluation_model_name_or_path", evaluation.pretrained_evaluation_model_name_or_path
    remedy = "give the folder of a CLIP model in transformers' format, or leave it out"
    if is_folder(named):
        if not (Path(named).expanduser() / "config.json").is_file():
            yield Problem(f"{named} holds no config.json, so it is no model", key=key, remedy=remedy)
    elif not re.fullmatch(r"\w[\w.-]*/[\w.-]+", named):
        yield Problem(f"{named} is neither a folder nor a repository named owner/name", key=key, remedy=remedy)


@as_far_as_known
def _two_offloads(memory: MemoryConfig) -> Iterator[Problem]:
    if memory.enable_group_offload and memory.enable_model_cpu_offload:
        yield Problem(
            "enable_group_offload and enable_model_cpu_offload both move the denoiser and exclude each other",
            key="enable_model_cpu_offload",
            remedy="turn one of them off",
        )


@as_far_as_known
def _offload(memory: MemoryConfig, model: ModelConfig) -> Iterator[Problem]:
    if memory.enable_group_offload and model.model_type == "full":
        yield Problem(
            "weights that train stay on the device, and model_type full trains them all",
            key="enable_group_offload",
            remedy="turn it off, or train with model_type lora",
        )


@as_far_as_known
def _stored_offload(memory: MemoryConfig, model: ModelConfig, precision: PrecisionConfig) -> Iterator[Problem]:
    stored = precision.base_model_precision
    if memory.enable_group_offload and stored != "no_change" and not model.i_know_what_i_am_doing:
        yield Problem(
            f"moving blocks that are stored as {stored} is not proven",
            key="enable_group_offload",
            remedy="turn it off, or set i_know_what_i_am_doing to try it",
        )
