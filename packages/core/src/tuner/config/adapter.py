"""The adapter that is trained with model_type lora."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tuner.config.settings import Topic, setting

_LORA = {"model_type": ("lora",)}
_STANDARD = {"model_type": ("lora",), "lora_type": ("standard",)}
_LYCORIS = {"model_type": ("lora",), "lora_type": ("lycoris",)}


class AdapterConfig(Topic):
    """Which adapter, how large and how initialised."""

    lora_type: Literal["standard", "lycoris"] = setting(
        "standard", "standard: LoRA by PEFT; lycoris: LoKr and others, described in lycoris_config.", needs=_LORA
    )
    lycoris_config: Path = setting(
        Path("config/lycoris_config.json"),
        "The LyCORIS file, looked for beside the configuration and in the working directory.",
        needs=_LYCORIS,
    )
    lora_rank: int = setting(16, "Rank of a standard LoRA.", ge=1, needs=_STANDARD)
    lora_alpha: float | None = setting(
        None,
        "Alpha of a standard LoRA, whose output is scaled by alpha / rank; the rank if not given.",
        gt=0,
        needs=_STANDARD,
    )
    init_lokr_norm: float | None = setting(
        None,
        "Start LoKr layers from noise of this share of the base weights' norm instead of from nothing, such as 1e-4.",
        ge=0,
        needs={**_LYCORIS, "init_lora": (False,)},
    )
    init_lora: Path | None = setting(
        None, "Saved adapter, or its folder, whose weights a fresh run starts from.", needs=_LORA
    )
    lora_dropout: float = setting(0.1, "Dropout of a standard LoRA's input.", ge=0, lt=1, needs=_STANDARD)
