"""A DeepSpeed configuration against the settings of the run, which say the same things in their own words.

What it asks for beside them is that weights, gradients and optimizer state are shared out (ZeRO, Rajbhandari et al.
2020, https://arxiv.org/abs/1910.02054), which PyTorch's FSDP2 does here.

Key names and their meaning are those of https://www.deepspeed.ai/docs/config-json/; "auto" stands for what the run's
settings say, as in accelerate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuner.config.launch import LaunchConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.partial import as_far_as_known
from tuner.config.precision import PrecisionConfig
from tuner.config.sharding import sharding_problems
from tuner.errors import Problem

AUTO = "auto"
_DEVICES = ("none", "cpu", "nvme")


def zero_stage(content: object) -> int:
    """Return the stage of ZeRO that a configuration without problems asks for: 0 to 3."""
    zero = content.get("zero_optimization", {}) if isinstance(content, dict) else {}
    stage = zero.get("stage", 0) if isinstance(zero, dict) else 0
    return stage if stage in (1, 2, 3) else 0


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
    yield from _zero(content, origin)
    yield from _sizes(content, origin, topics["optimisation"], topics["launch"])
    yield from _updates(content, origin, topics["optimisation"])
    yield from _formats(content, origin, topics["precision"])
    if zero_stage(content):
        yield from _sharing(topics)


@as_far_as_known
def _sharing(topics: Mapping[str, Any]) -> Iterator[Problem]:
    if not topics["sharding"].fsdp_enable:  # which is checked by itself, and does not go with this one
        yield from sharding_problems(topics, "deepspeed_config")


def _zero(content: Mapping[str, Any], origin: str) -> Iterator[Problem]:
    zero = content.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield Problem(f"must be an object, not {zero!r}", origin, "zero_optimization")
        return
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        yield Problem(f"{stage!r} is no ZeRO stage (one of: 0, 1, 2, 3)", origin, "zero_optimization.stage")
        return
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
    elif device != "none":
        remedy = "set it to none; gradient_checkpointing and an optimizer with little state spare memory"
        yield Problem(
            f"{device!r} is not served: what is shared out stays on the devices", origin, f"{key}.device", remedy
        )


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
