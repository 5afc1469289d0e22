"""Processes and what launches them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from tuner.config.settings import NOT_YET, Topic, setting

_ONE = f"{NOT_YET}: one process trains on one device"


class LaunchConfig(Topic):
    """Settings of the launcher."""

    num_processes: int = setting(1, "Processes that train together.", unit="processes", ge=1, unread=_ONE)
    num_machines: int = setting(1, "Machines that train together.", unit="machines", ge=1, unread=_ONE)
    accelerate_visible_devices: str | list[int] | None = setting(
        None, "Devices to train on, by number.", unread=f"{NOT_YET}: CUDA_VISIBLE_DEVICES does this"
    )
    accelerate_config: Path | None = setting(None, "Configuration file of accelerate.", unread=_ONE)
    dynamo_backend: Literal["no", "inductor", "eager", "aot_eager"] = setting(
        "no",
        "Compiler of the denoiser's blocks in training: no, inductor for speed, or eager and aot_eager, which only "
        "trace, to find what a compiler stumbles over. Each kind of block is compiled once for each picture size, "
        "which takes from seconds to minutes.",
        known=("cudagraphs", "onnxrt", "openxla", "tensorrt", "tvm", "ipex"),
    )

    @field_validator("dynamo_backend", mode="before")
    @classmethod
    def _case_is_free(cls, value: object) -> object:
        # accelerate writes them in capitals, and YAML reads a bare `no` as false.
        if value is False:
            return "no"
        return value.lower() if isinstance(value, str) else value
