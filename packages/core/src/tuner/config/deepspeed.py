"""A DeepSpeed configuration against the settings of the run, which say the same things in their own words.

Key names and their meaning are those of https://www.deepspeed.ai/docs/config-json/; "auto" stands for what the run's
settings say, as in accelerate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuner.config.launch import LaunchConfig
from tuner.config.model import ModelConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.partial import as_far_as_known
from tuner.config.precision import PrecisionConfig
from tuner.config.validation import ValidationConfig
from tuner.errors import Problem

AUTO = "auto"
_DEVICES = ("none", "cpu", "nvme")


def deepspeed_problems(content: object, origin: str, topics: Mapping[str, Any]) -> Iterator[Problem]:
    """Check a parsed configuration.

    Args:
        content: What the file, text or object holds.
        origin: Where it is, for messages.
        topics: The run's settings by topic.
    """
    if not isinstance(content, dict):
        yield Problem(f"must be an object of DeepSpeed's settings, not {type(content).__name__}", origin)
        return
    yield from _zero(content, origin, topics["validation"])
    yield from _sizes(content, origin, topics["optimisation"], topics["launch"])
    yield from _updates(content, origin, topics["optimisation"])
    yield from _formats(content, origin, topics["precision"])
    yield from _sharding(origin, topics["model"])


@as_far_as_known
def _sharding(origin: str, model: ModelConfig) -> Iterator[Problem]:
    if model.model_type == "lora":
        yield Problem(
            "DeepSpeed shards weights that train, and model_type lora trains few",
            origin,
            remedy="leave deepspeed_config out; base_model_precision and enable_group_offload spare memory instead",
        )


@as_far_as_known
def _zero(content: Mapping[str, Any], origin: str, validation: ValidationConfig) -> Iterator[Problem]:
    zero = content.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield Problem(f"must be an object, not {zero!r}", origin, "zero_optimization")
        return
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        yield Problem(f"{stage!r} is no ZeRO stage (one of: 0, 1, 2, 3)", origin, "zero_optimization.stage")
        return
    if stage == 3 and validation.validation_step_interval:
        yield Problem(
            "stage 3 leaves no process with all weights, which validation pictures need",
            origin,
            "zero_optimization.stage",
            "use stage 2, or set validation_step_interval to 0",
        )
    for name, least in (("offload_optimizer", 1), ("offload_param", 3)):
        yield from _offload(zero.get(name), stage, least, origin, f"zero_optimization.{name}")


def _offload(given: object, stage: int, least: int, origin: str, key: str) -> Iterator[Problem]:
    if given is None:
        return
    device = given.get("device", "none") if isinstance(given, dict) else given
    if not isinstance(given, dict) or device not in _DEVICES:
        yield Problem(f"{device!r} is no device to offload to (one of: {', '.join(_DEVICES)})", origin, f"{key}.device")
        return
    if device != "none" and stage < least:
        yield Problem(f"needs a zero_optimization.stage of at least {least}, and it is {stage}", origin, key)
    if device == "nvme" and not given.get("nvme_path"):
        yield Problem("device nvme needs a folder", origin, f"{key}.nvme_path", "name one on a fast local disk")


@as_far_as_known
def _sizes(
    content: Mapping[str, Any], origin: str, optimisation: OptimisationConfig, launch: LaunchConfig
) -> Iterator[Problem]:
    micro, steps = optimisation.train_batch_size, optimisation.gradient_accumulation_steps
    yield from _same(content, "train_micro_batch_size_per_gpu", micro, "train_batch_size", origin)
    yield from _same(content, "gradient_accumulation_steps", steps, "gradient_accumulation_steps", origin)
    name, total = "train_batch_size x gradient_accumulation_steps x num_processes", micro * steps * launch.num_processes
    yield from _same(content, "train_batch_size", total, name, origin)


@as_far_as_known
def _updates(content: Mapping[str, Any], origin: str, optimisation: OptimisationConfig) -> Iterator[Problem]:
    for key, setting in {"optimizer": "optimizer", "scheduler": "lr_scheduler"}.items():
        if key in content:
            yield Problem(f"{setting} says this already", origin, key, f"leave {key} out here")
    limit = optimisation.max_grad_norm
    if optimisation.grad_clip_method == "value" and limit and content.get("gradient_clipping") not in (None, 0, AUTO):
        yield Problem(
            f"{content['gradient_clipping']!r} limits the norm, and grad_clip_method is value",
            origin,
            "gradient_clipping",
            "leave it out here, or set grad_clip_method to norm",
        )
        return
    yield from _same(content, "gradient_clipping", limit, "max_grad_norm", origin)


@as_far_as_known
def _formats(content: Mapping[str, Any], origin: str, precision: PrecisionConfig) -> Iterator[Problem]:
    for key in ("bf16", "fp16"):
        section = content.get(key, {})
        if not isinstance(section, dict):
            yield Problem(f"must be an object, not {section!r}", origin, key)
            continue
        wanted = precision.mixed_precision == key
        yield from _same(section, "enabled", wanted, f"mixed_precision {precision.mixed_precision}", origin, f"{key}.")


def _same(
    content: Mapping[str, Any], key: str, value: float, setting: str, origin: str, prefix: str = ""
) -> Iterator[Problem]:
    given = content.get(key, AUTO)
    if given != AUTO and (given != value or isinstance(given, bool) != isinstance(value, bool)):
        yield Problem(f"{given!r} contradicts {setting}, which is {value!r}", origin, prefix + key, 'write "auto"')
