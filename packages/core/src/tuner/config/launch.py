"""Processes and what launches them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from tuner.config.optimisation import OptimisationConfig
from tuner.config.partial import as_far_as_known
from tuner.config.settings import Topic, setting
from tuner.errors import Problem


class LaunchConfig(Topic):
    """Settings of the launcher."""

    num_processes: int = setting(
        1, "Processes that train together, on all machines, each on a device of its own.", unit="processes", ge=1
    )
    num_machines: int = setting(1, "Machines that train together.", unit="machines", ge=1)
    accelerate_visible_devices: str | list[int] | None = setting(
        None, "Devices to train on, by number, as 0,1 or [0, 1]; all if not given."
    )
    accelerate_config: Path | None = setting(
        None, "Configuration file of accelerate, which also says how several machines find each other."
    )
    dynamo_backend: Literal["no", "inductor", "eager", "aot_eager"] = setting(
        "no",
        "Compiler of the denoiser's blocks in training: no, inductor for speed, or eager and aot_eager, which only "
        "trace, to find what a compiler stumbles over. Each kind of block is compiled once for each picture size, "
        "which takes from seconds to minutes.",
        known=("cudagraphs", "onnxrt", "openxla", "tensorrt", "tvm", "ipex"),
    )

    @field_validator("accelerate_visible_devices")
    @classmethod
    def _devices_are_named(cls, value: str | list[int] | None) -> str | list[int] | None:
        names = [] if value is None else [str(name).strip() for name in _listed(value)]
        if value is not None and (not names or not all(names) or len(set(names)) < len(names)):
            raise ValueError(f"{value!r} does not name devices: give each number once, as 0,1 or [0, 1]")
        return value

    @field_validator("dynamo_backend", mode="before")
    @classmethod
    def _case_is_free(cls, value: object) -> object:
        # accelerate writes them in capitals, and YAML reads a bare `no` as false.
        if value is False:
            return "no"
        return value.lower() if isinstance(value, str) else value

    @property
    def visible_devices(self) -> str | None:
        """The devices as CUDA_VISIBLE_DEVICES holds them, or None for all."""
        devices = self.accelerate_visible_devices
        return None if devices is None else ",".join(str(name).strip() for name in _listed(devices))


def _listed(devices: str | list[int]) -> list[str] | list[int]:
    return devices.split(",") if isinstance(devices, str) else devices


def launch_problems(launch: LaunchConfig, optimisation: OptimisationConfig) -> Iterator[Problem]:
    """Check what several processes cannot do."""
    yield from _shares(launch)
    yield from _meeting(launch)
    yield from _devices(launch)
    yield from _releasing(launch, optimisation)


@as_far_as_known
def _shares(launch: LaunchConfig) -> Iterator[Problem]:
    count, machines = launch.num_processes, launch.num_machines
    if count % machines:
        yield Problem(
            f"{count} processes cannot be shared out evenly among {machines} machines",
            key="num_processes",
            remedy="num_processes counts those of all machines: make it a multiple of num_machines",
        )


@as_far_as_known
def _meeting(launch: LaunchConfig) -> Iterator[Problem]:
    if launch.num_machines > 1 and launch.accelerate_config is None:
        yield Problem(
            f"nothing says how {launch.num_machines} machines find each other",
            key="num_machines",
            remedy="name a file in accelerate_config that gives machine_rank, main_process_ip and main_process_port",
        )


@as_far_as_known
def _devices(launch: LaunchConfig) -> Iterator[Problem]:
    devices, count = launch.visible_devices, launch.num_processes // launch.num_machines
    if devices is not None and len(devices.split(",")) < count:
        yield Problem(
            f"{devices} are fewer devices than the {count} processes of a machine need",
            key="accelerate_visible_devices",
            remedy="name more devices or lower num_processes",
        )


@as_far_as_known
def _releasing(launch: LaunchConfig, optimisation: OptimisationConfig) -> Iterator[Problem]:
    if launch.num_processes > 1 and optimisation.releases_gradients:
        yield Problem(
            f"a gradient that is freed in the backward pass cannot be added up over {launch.num_processes} processes",
            key="optimizer_release_gradients" if optimisation.optimizer_release_gradients else "optimizer_config",
            remedy="set num_processes to 1, or keep the gradients until the step ends",
        )
