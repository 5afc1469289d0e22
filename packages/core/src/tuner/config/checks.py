"""Rules that concern more than one setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuner.config.adapter import AdapterConfig
from tuner.config.attention import DIFFUSERS, KERNELS
from tuner.config.flow import FlowConfig
from tuner.config.keys import Given
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.precision import PrecisionConfig
from tuner.config.validation import ValidationConfig
from tuner.errors import Problem
from tuner.plugins import Family, create_manager
from tuner.types import FamilyFacts, Part


def conflicts(topics: Mapping[str, Any], given: Mapping[str, Given], family: Family) -> list[Problem]:
    """Check what only several settings together can violate. Topics that failed on their own are absent."""
    found = [
        *_model(topics, family.facts),
        *_optimisation(topics),
        *_flow(topics),
        *_precision(topics, family),
        *_memory(topics),
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
    if optimisation.lr_scheduler == "constant" and optimisation.lr_warmup_steps:
        yield f"lr_scheduler constant with lr_warmup_steps {optimisation.lr_warmup_steps} runs as constant_with_warmup"
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
    for width, height in validation.sizes():
        if (width, height) != aligned_size(width, height, facts):
            rounded = "x".join(map(str, aligned_size(width, height, facts)))
            yield f"validation_resolution {width}x{height} is rounded to {rounded}"


def aligned_size(width: int, height: int, facts: FamilyFacts) -> tuple[int, int]:
    """Round a picture size to the multiples that the family needs, at least one of them along each side."""
    unit = facts.latent_stride * facts.patch_size
    return max(unit, round(width / unit) * unit), max(unit, round(height / unit) * unit)


def _model(topics: Mapping[str, Any], facts: FamilyFacts) -> Iterator[Problem]:
    model: ModelConfig | None = topics.get("model")
    if model and model.model_flavour and model.model_flavour not in facts.flavours:
        listed = ", ".join(facts.flavours)
        yield Problem(f"{model.model_flavour!r} is no flavour of {facts.title} (one of: {listed})", key="model_flavour")


def _optimisation(topics: Mapping[str, Any]) -> Iterator[Problem]:
    optimisation: OptimisationConfig | None = topics.get("optimisation")
    precision: PrecisionConfig | None = topics.get("precision")
    if optimisation and (optimisation.max_train_steps > 0) == (optimisation.num_train_epochs > 0):
        yield Problem(
            f"max_train_steps is {optimisation.max_train_steps} and num_train_epochs is "
            f"{optimisation.num_train_epochs}: exactly one must be above 0",
            key="max_train_steps",
            remedy="give the length of the run with one of them, and set the other to 0",
        )
    if optimisation and precision and precision.mixed_precision == "no" and optimisation.optimizer == "adamw_bf16":
        yield Problem(
            "adamw_bf16 trains bf16 weights, but mixed_precision is no",
            key="optimizer",
            remedy="use optimi-adamw, or mixed_precision bf16",
        )


def _flow(topics: Mapping[str, Any]) -> Iterator[Problem]:
    flow: FlowConfig | None = topics.get("flow")
    if flow is None:
        return
    densities = ("flow_use_uniform_schedule", "flow_use_beta_schedule", "flow_cubic_schedule_weights")
    chosen = [name for name in densities if getattr(flow, name)]
    if len(chosen) > 1:
        yield Problem(f"{' and '.join(chosen)} exclude each other", key=chosen[-1], remedy="turn one of them off")


_PRECISIONS: dict[str, Part] = {
    "base_model_precision": "denoiser",
    **{f"text_encoder_{number}_precision": "text_encoders" for number in range(1, 5)},
}
"""Setting -> the part whose storage it decides on."""


def _precision(topics: Mapping[str, Any], family: Family) -> Iterator[Problem]:
    precision: PrecisionConfig | None = topics.get("precision")
    model: ModelConfig | None = topics.get("model")
    if precision is None or model is None:
        return
    stored = precision.base_model_precision
    if stored != "no_change" and model.model_type == "full" and not model.i_know_what_i_am_doing:
        yield Problem(
            f"{stored} stores weights that model_type full is to change",
            key="base_model_precision",
            remedy="set it to no_change, or train with model_type lora",
        )
    quantised = [key for key in _PRECISIONS if getattr(precision, key) != "no_change"]
    if not quantised or "family" not in topics:
        return
    policy = create_manager(family).hook.quantisation_policy(options=topics["family"])
    for key in quantised:
        part = policy.parts.get(_PRECISIONS[key]) if policy is not None else None
        value = getattr(precision, key)
        if part is not None and value in part.refused:
            yield Problem(f"{value} is refused for {family.facts.title}: {part.refused[value]}", key=key)


def _memory(topics: Mapping[str, Any]) -> Iterator[Problem]:
    memory: MemoryConfig | None = topics.get("memory")
    if memory is None:
        return
    yield from _offload(memory, topics.get("model"))
    kernel = KERNELS.get(memory.attention_mechanism)
    precision: PrecisionConfig | None = topics.get("precision")
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


def _offload(memory: MemoryConfig, model: ModelConfig | None) -> Iterator[Problem]:
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
