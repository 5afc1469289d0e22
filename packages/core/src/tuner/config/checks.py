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
from tuner.config.launch import LaunchConfig, launch_problems
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.optimisation_checks import optimisation_conflicts, optimisation_warnings
from tuner.config.precision import PrecisionConfig
from tuner.config.sharding import sharding_problems
from tuner.config.storage import storage_problems
from tuner.config.validation import ValidationConfig
from tuner.errors import Problem
from tuner.plugins import Family
from tuner.types import FamilyFacts


def conflicts(topics: Mapping[str, Any], given: Mapping[str, Given], family: Family) -> list[Problem]:
    """Check what only several settings together can violate. Topics that failed on their own are absent."""
    found = [
        *_model(topics, family.facts),
        *_optimisation(topics),
        *_flow(topics),
        *storage_problems(topics, family),
        *_memory(topics),
        *_launch(topics),
        *sharding_problems(topics),
        *_evaluation(topics),
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


def _model(topics: Mapping[str, Any], facts: FamilyFacts) -> Iterator[Problem]:
    model: ModelConfig | None = topics.get("model")
    if model and model.model_flavour and model.model_flavour not in facts.flavours:
        listed = ", ".join(facts.flavours)
        yield Problem(f"{model.model_flavour!r} is no flavour of {facts.title} (one of: {listed})", key="model_flavour")


def _optimisation(topics: Mapping[str, Any]) -> Iterator[Problem]:
    optimisation: OptimisationConfig | None = topics.get("optimisation")
    if optimisation:
        yield from optimisation_conflicts(optimisation, topics.get("precision"))


def _flow(topics: Mapping[str, Any]) -> Iterator[Problem]:
    flow: FlowConfig | None = topics.get("flow")
    if flow is None:
        return
    densities = ("flow_use_uniform_schedule", "flow_use_beta_schedule", "flow_cubic_schedule_weights")
    chosen = [name for name in densities if getattr(flow, name)]
    if len(chosen) > 1:
        yield Problem(f"{' and '.join(chosen)} exclude each other", key=chosen[-1], remedy="turn one of them off")


def _memory(topics: Mapping[str, Any]) -> Iterator[Problem]:
    memory: MemoryConfig | None = topics.get("memory")
    if memory is None:
        return
    precision: PrecisionConfig | None = topics.get("precision")
    yield from _offload(memory, topics.get("model"), precision)
    kernel = KERNELS.get(memory.attention_mechanism)
    if kernel and not kernel.installed:
        yield Problem(
            f"{memory.attention_mechanism} needs the package {kernel.package}, which is not installed",
            key="attention_mechanism",
            remedy=f"install it, or use {DIFFUSERS}",
        )
    if kernel and kernel.bf16 and precision and precision.mixed_precision == "no":
        yield Problem(
            f"{memory.attention_mechanism} takes no float32, which mixed_precision no asks for",
            key="attention_mechanism",
            remedy="use native, or mixed_precision bf16",
        )


def _launch(topics: Mapping[str, Any]) -> Iterator[Problem]:
    launch: LaunchConfig | None = topics.get("launch")
    if launch:
        yield from launch_problems(launch, topics.get("optimisation"))


def _evaluation(topics: Mapping[str, Any]) -> Iterator[Problem]:
    evaluation: EvaluationConfig | None = topics.get("evaluation")
    if evaluation is None or evaluation.evaluation_type == "none":
        return
    key, named = "pretrained_evaluation_model_name_or_path", evaluation.pretrained_evaluation_model_name_or_path
    remedy = "give the folder of a CLIP model in transformers' format, or leave it out"
    if is_folder(named):
        if not (Path(named).expanduser() / "config.json").is_file():
            yield Problem(f"{named} holds no config.json, so it is no model", key=key, remedy=remedy)
    elif not re.fullmatch(r"\w[\w.-]*/[\w.-]+", named):
        yield Problem(f"{named} is neither a folder nor a repository named owner/name", key=key, remedy=remedy)


def _offload(memory: MemoryConfig, model: ModelConfig | None, precision: PrecisionConfig | None) -> Iterator[Problem]:
    if not memory.enable_group_offload:
        return
    if memory.enable_model_cpu_offload:
        yield Problem(
            "enable_group_offload and enable_model_cpu_offload both move the denoiser and exclude each other",
            key="enable_model_cpu_offload",
            remedy="turn one of them off",
        )
    if model and model.model_type == "full":
        yield Problem(
            "weights that train stay on the device, and model_type full trains them all",
            key="enable_group_offload",
            remedy="turn it off, or train with model_type lora",
        )
    stored = precision.base_model_precision if precision else "no_change"
    if stored != "no_change" and model and not model.i_know_what_i_am_doing:
        yield Problem(
            f"moving blocks that are stored as {stored} is not proven",
            key="enable_group_offload",
            remedy="turn it off, or set i_know_what_i_am_doing to try it",
        )
