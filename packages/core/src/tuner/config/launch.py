"""Processes and what launches them."""

from __future__ import annotations

from pathlib import Path

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
    dynamo_backend: str = setting("no", "Compiler of the denoiser.", unread=f"{NOT_YET}: nothing is compiled")
