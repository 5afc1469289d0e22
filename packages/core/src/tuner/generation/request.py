"""What somebody asks of `tuner generate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class GenerateRequest:
    """Pictures to make. None: as the run's settings say that the trained file records.

    Attributes:
        prompts: Nickname, which is part of the file name -> prompt. The empty prompt is the unconditional one.
        output: Folder for the pictures.
        trained: An adapter's file, the folder of an adapter, checkpoint, run or whole pipeline; None for the base.
        weights: The trained weights or their moving average.
        family: Model family.
        base: Hub repository or local folder of the base model.
        revision: Revision of the repository.
        negative: Prompt to steer away from.
        seed: Seed of the first picture of a prompt; each further one has the next.
        number: Pictures of each prompt and size.
        guidance: Guidance scale; at most 1 for none.
        steps: Sampling steps.
        sizes: (width, height) in pixels; every prompt at each.
        strength: Scale of the adapter, 1 as it was trained.
        merge: Add the adapter to the weights of the denoiser first.
        quantise: Storage format of the denoiser, once the adapter is merged.
        precision: "bf16", "fp16", or "no" for float32.
        options: The family's own settings that are given.
    """

    prompts: Mapping[str, str]
    output: Path
    trained: Path | None = None
    weights: Literal["live", "ema"] | None = None
    family: str | None = None
    base: str | None = None
    revision: str | None = None
    negative: str | None = None
    seed: int | None = None
    number: int = 1
    guidance: float | None = None
    steps: int | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    strength: float = 1.0
    merge: bool = False
    quantise: str = "no_change"
    precision: Literal["bf16", "fp16", "no"] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
