"""What saves memory at the price of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tuner.config.settings import NOT_YET, Topic, setting

_GROUPS = {"enable_group_offload": (True,)}
_NO_OFFLOAD = f"{NOT_YET}: the denoiser stays on its device"


class MemoryConfig(Topic):
    """Offloading, slicing, attention kernels and sharding."""

    offload_during_startup: bool = setting(
        False,
        "Keep text encoders on the CPU while latents are encoded.",
        unread="encoders are loaded for their own work alone and leave memory after it",
    )
    enable_group_offload: bool = setting(
        False, "Keep the denoiser's blocks on the CPU or the disk until they are needed.", unread=_NO_OFFLOAD
    )
    group_offload_type: Literal["block_level", "leaf_level"] = setting(
        "block_level", "Size of the parts that are moved.", needs=_GROUPS, unread=_NO_OFFLOAD
    )
    group_offload_blocks_per_group: int = setting(
        1, "Blocks that are moved together.", unit="blocks", ge=1, needs=_GROUPS, unread=_NO_OFFLOAD
    )
    group_offload_use_stream: bool = setting(
        False, "Copy while the device computes.", needs=_GROUPS, unread=_NO_OFFLOAD
    )
    group_offload_to_disk_path: Path | None = setting(
        None, "Folder on a fast disk for parts that wait.", needs=_GROUPS, unread=_NO_OFFLOAD
    )
    enable_model_cpu_offload: bool = setting(
        False, "Keep whole models on the CPU until they are needed.", unread=_NO_OFFLOAD
    )
    vae_enable_slicing: bool = setting(
        False, "Encode and decode picture by picture.", unread=f"{NOT_YET}: lower vae_batch_size instead"
    )
    vae_enable_tiling: bool = setting(
        False, "Encode and decode in tiles.", unread=f"{NOT_YET}: pictures are encoded whole"
    )
    attention_mechanism: str = setting(
        "diffusers", "Attention kernel.", unread=f"{NOT_YET}: diffusers chooses the kernel"
    )
    deepspeed_config: str | dict[str, Any] | None = setting(
        None, "DeepSpeed's settings, or a file that holds them.", unread=f"{NOT_YET}: training uses one device"
    )
