"""Sharing a model out over processes, as settings. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import field_validator

from tuner.config.compiling import picture_backend, training_backend
from tuner.config.partial import as_far_as_known
from tuner.config.settings import Topic, setting
from tuner.errors import Problem

_ON: Mapping[str, tuple[bool, ...]] = {"fsdp_enable": (True,)}
_BLOCKS = "each block of the network is gathered by itself"
_STRATEGIES = {"FULL_SHARD": True, "SHARD_GRAD_OP": False}
"""Names of FSDP 1 -> fsdp_reshard_after_forward."""


class ShardingConfig(Topic):
    """FSDP: each of several processes holds a part of the model."""

    fsdp_enable: bool = setting(
        False,
        "Share weights, gradients and optimizer state of a full fine-tune out over the processes, so that each holds "
        "a part. Results are the same but for rounding, and checkpoints are those of an unshared run.",
    )
    fsdp_version: Literal[1, 2] = setting(2, "Version of FSDP.", needs=_ON, unread={1: "version 2 does the same"})
    fsdp_reshard_after_forward: bool = setting(
        True,
        "Free the weights of a block between forward and backward pass: less memory, and they are gathered once more.",
        needs=_ON,
    )
    fsdp_state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = setting(
        "FULL_STATE_DICT", "Form of checkpoints.", unread={"SHARDED_STATE_DICT": "checkpoints are whole"}
    )
    fsdp_auto_wrap_policy: str | None = setting(None, "What is gathered at a time.", unread=_BLOCKS)
    fsdp_transformer_layer_cls_to_wrap: str | list[str] | None = setting(
        None, "Blocks that are gathered at a time.", unread=_BLOCKS
    )
    fsdp_cpu_ram_efficient_loading: bool = setting(
        False, "Load weights in one process alone.", unread="each process loads them and keeps its part"
    )
    fsdp_activation_checkpointing: bool = setting(
        False, "Compute activations again in the backward pass.", unread="gradient_checkpointing decides on this"
    )
    fsdp_offload_params: bool = setting(
        False, "Keep the parts in the host's memory; not served.", aliases=("fsdp_cpu_offload",)
    )

    @field_validator("fsdp_reshard_after_forward", mode="before")
    @classmethod
    def _names_of_version_1(cls, value: object) -> object:
        return _STRATEGIES.get(value.upper(), value) if isinstance(value, str) else value

    @field_validator("fsdp_offload_params")
    @classmethod
    def _stays_on_the_device(cls, value: bool) -> bool:
        if value:
            raise ValueError("this version keeps what it shares out on the devices: set it to false")
        return value


def sharding_problems(topics: Mapping[str, Any], key: str = "fsdp_enable") -> Iterator[Problem]:
    """Check whether a model that is shared out can be trained as the other settings say.

    Args:
        topics: The run's settings by topic.
        key: The setting that shares it out.
    """
    for rule in (_adapter, _both, _offload, _rollouts, _compiling, _scaling, _optimizer):
        for problem in rule(topics):
            yield replace(problem, key=key)


@as_far_as_known
def _adapter(topics: Mapping[str, Any]) -> Iterator[Problem]:
    if topics["model"].model_type == "lora":
        yield Problem(
            "it shares out weights that train, and model_type lora trains few",
            remedy="leave it out; base_model_precision and enable_group_offload spare memory instead",
        )


@as_far_as_known
def _both(topics: Mapping[str, Any]) -> Iterator[Problem]:
    if topics["memory"].deepspeed_config and topics["sharding"].fsdp_enable:
        yield Problem("fsdp_enable and deepspeed_config both share the model out", remedy="leave one of them out")


@as_far_as_known
def _offload(topics: Mapping[str, Any]) -> Iterator[Problem]:
    if topics["memory"].enable_group_offload:
        yield Problem("enable_group_offload moves blocks that are shared out", remedy="turn one of them off")


@as_far_as_known
def _rollouts(topics: Mapping[str, Any]) -> Iterator[Problem]:
    if topics["scheduled_sampling"].rolls_out:
        yield Problem(
            "a rollout lets one process use the model more often than another, and they gather it together",
            remedy="set scheduled_sampling_probability to 0",
        )


@as_far_as_known
def _compiling(topics: Mapping[str, Any]) -> Iterator[Problem]:
    for name, backend in (
        ("dynamo_backend", training_backend(topics["launch"])),
        ("validation_torch_compile", picture_backend(topics["launch"], topics["validation"])),
    ):
        if backend:
            yield Problem("compiling blocks that are shared out is not served", remedy=f"turn {name} off")


@as_far_as_known
def _scaling(topics: Mapping[str, Any]) -> Iterator[Problem]:
    if topics["precision"].mixed_precision == "fp16":
        yield Problem(
            "losses are scaled for float16, which is not proven for gradients that are shared out",
            remedy="use mixed_precision bf16",
        )


@as_far_as_known
def _optimizer(topics: Mapping[str, Any]) -> Iterator[Problem]:
    optimisation = topics["optimisation"]
    if optimisation.optimizer_spec.sharded is None and not topics["model"].i_know_what_i_am_doing:
        yield Problem(
            f"{optimisation.optimizer} is not proven to be right for weights that are shared out",
            remedy="use adamw_bf16, optimi-adamw, optimi-lion or optimi-stableadamw, or set i_know_what_i_am_doing",
        )
