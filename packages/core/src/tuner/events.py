"""What extensions hear of a run, see `tuner.hookspecs.ExtensionSpec`. Importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from tuner.config import RunConfig
    from tuner.types import FamilyFacts


@dataclass(frozen=True)
class RunStarted:
    """The run is about to take its first step.

    Attributes:
        config: The run's configuration.
        first_step: Steps taken before, 0 for a fresh run.
        last_step: Steps taken when it is done.
        output_dir: The run's folder.
        facts: The family's facts.
        origin: What exported files record of their origin, without paths and secrets: base model, seed, data set
            fingerprint and the like.
        settings: All settings by their public keys, as checkpoints record them: without paths and secrets.
        samples: Data set -> pictures that are trained on.
        hide: Text -> the same without what must not be shown, such as values from the environment.
    """

    config: RunConfig
    first_step: int
    last_step: int
    output_dir: Path
    facts: FamilyFacts
    origin: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    hide: Callable[[str], str] = str


@dataclass(frozen=True)
class StepEnded:
    """One optimizer step.

    Attributes:
        step: Number of the step, counted from 1.
        loss: Mean loss of the step's samples, a scalar still on the device.
        learning_rate: Learning rate that the step used.
        samples: Samples that the step used, over all processes.
        metrics: Further scalars by name, on the device or plain numbers.
        logged: Whether this is one of the steps at which the device is waited for anyway.
    """

    step: int
    loss: Tensor
    learning_rate: float
    samples: int
    metrics: Mapping[str, Tensor | float]
    logged: bool


@dataclass(frozen=True)
class ImagesValidated:
    """A round of validation pictures.

    Attributes:
        step: Steps taken; 0 for the base model.
        label: Whose weights made them: "base model", "live" or "ema".
        files: Prompt's nickname -> its pictures, one for each size.
        prompts: Prompt's nickname -> the prompt.
        shown: Prompt's nickname -> what people should see of this step: its pictures, or sheets with those of the
            base model and of the moving average beside them. Empty where another event of the step shows them.
    """

    step: int
    label: str
    files: Mapping[str, tuple[Path, ...]]
    prompts: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """The model was evaluated.

    Attributes:
        step: Steps taken; 0 for the base model.
        label: Whose weights were evaluated: "base model", "live" or "ema".
        metrics: Values by name, such as `eval_loss/pictures` or `clip_score/mean`.
        curves: Name -> (x, y) points, such as the loss at each noise level.
        basis: Hash of what the values depend on beside the weights, such as pictures, captions and noise; values of
            equal basis can be compared.
    """

    step: int
    label: str
    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    basis: str = ""


@dataclass(frozen=True)
class Previewed:
    """A validation picture, estimated while it is sampled.

    Attributes:
        step: Optimizer steps taken.
        nickname: The prompt's nickname.
        prompt: The prompt.
        sampling_step: Sampling steps done, counted from 1.
        sampling_steps: Sampling steps in all.
        sigma: Noise level after that sampling step.
        picture: The decoded estimate of the clean picture, a PIL image in RGB.
    """

    step: int
    nickname: str
    prompt: str
    sampling_step: int
    sampling_steps: int
    sigma: float
    picture: Image


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is complete on disk.

    Attributes:
        step: Steps taken.
        folder: Its folder.
    """

    step: int
    folder: Path


@dataclass(frozen=True)
class RunEnded:
    """The run is over.

    Attributes:
        step: Steps taken in all.
        outcome: How it ended.
        exported: The result, None unless it is done.
        reason: Why it failed, in a line without paths and secrets; empty if it did not.
    """

    step: int
    outcome: Literal["done", "interrupted", "failed"]
    exported: Path | None
    reason: str = ""


@dataclass(frozen=True)
class PreparationFailed:
    """The run ended before its first step, while data, caches and weights were prepared.

    Attributes:
        output_dir: The run's folder.
        outcome: How it ended.
        reason: Why it failed, as in `RunEnded`.
    """

    output_dir: Path
    outcome: Literal["interrupted", "failed"]
    reason: str = ""
