"""What saves memory at the price of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from tuner.config.attention import DIFFUSERS, KERNELS, checked_name
from tuner.config.settings import Topic, setting

_GROUPS = {"enable_group_offload": (True,)}
_BLOCKS = {**_GROUPS, "group_offload_type": ("block_level",)}


class MemoryConfig(Topic):
    """Offloading, slicing, attention kernels and sharding."""

    offload_during_startup: bool = setting(
        False,
        "Keep text encoders on the CPU while latents are encoded.",
        unread="encoders are loaded for their own work alone and leave memory after it",
    )
    enable_group_offload: bool = setting(
        False,
        "Keep the denoiser's frozen blocks on the CPU or the disk until they are needed; no effect without an "
        "accelerator. Training is spared memory by it only together with gradient_checkpointing.",
    )
    group_offload_type: Literal["block_level", "leaf_level"] = setting(
        "block_level",
        "Size of the parts that are moved: blocks, or the layers within them one by one.",
        needs=_GROUPS,
    )
    group_offload_blocks_per_group: int = setting(
        1,
        "Blocks that are moved together.",
        unit="blocks",
        ge=1,
        needs=_BLOCKS,
    )
    group_offload_use_stream: bool = setting(
        False, "Copy while the device computes; off without CUDA and with gradient_checkpointing.", needs=_GROUPS
    )
    group_offload_to_disk_path: Path | None = setting(
        None, "Folder on a fast disk for parts that wait; made if absent.", needs=_GROUPS
    )
    enable_model_cpu_offload: bool = setting(
        False,
        "Keep whole models on the CPU until they are needed.",
        unread="the denoiser is needed in every step; enable_group_offload moves it in parts",
    )
    vae_enable_slicing: bool = setting(False, "Encode and decode picture by picture, where the autoencoder can.")
    vae_enable_tiling: bool = setting(
        False,
        "Encode and decode large pictures in tiles, where the autoencoder can: less memory, slightly other numbers.",
    )
    attention_mechanism: str = setting(
        DIFFUSERS,
        f"Attention kernel of the denoiser: {DIFFUSERS} (its own choice), {', '.join(KERNELS)}.",
    )
    deepspeed_config: str | dict[str, Any] | None = setting(
        None,
        "DeepSpeed's settings, as JSON or a file that holds them, checked against the other settings. What they share "
        "out over several processes (stages 1 to 3 of ZeRO) PyTorch's FSDP2 shares out: stages 1 and 2 as with "
        "fsdp_reshard_after_forward false, stage 3 as with true.",
    )

    @field_validator("deepspeed_config", mode="before")
    @classmethod
    def _words_for_none(cls, value: object) -> object:
        return None if value is False or (isinstance(value, str) and value.lower() in {"none", "false"}) else value

    @field_validator("attention_mechanism")
    @classmethod
    def _is_a_kernel(cls, value: str) -> str:
        return checked_name(value)
