"""The optimizer and the length of the run."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import StringConstraints, field_validator

from tuner.config.optimizer_options import parse_options
from tuner.config.optimizers import ALIASES, OPTIMIZERS, OptimizerSpec, optimizer_spec
from tuner.config.settings import Topic, setting

OptimizerName = Literal[
    "adamw_bf16", "optimi-adamw", "optimi-lion", "optimi-stableadamw", "bnb-lion8bit-paged", "bnb-adamw8bit",
    "ao-adamw8bit", "prodigy", "adafactor",
]  # fmt: skip
"""The optimizers with a name, those of `OPTIMIZERS`."""
_CLASS_PATH = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"
OtherOptimizer = Annotated[str, StringConstraints(pattern=rf"{_CLASS_PATH}|^({'|'.join(ALIASES)})$")]
"""The path of a class, or a name that stands for another one."""


class OptimisationConfig(Topic):
    """Steps, batches, learning rate, optimizer, clipping."""

    max_train_steps: int = setting(0, "Optimizer steps to take; 0 if num_train_epochs is given.", unit="steps", ge=0)
    num_train_epochs: int = setting(0, "Passes over the data sets; 0 if max_train_steps is given.", unit="epochs", ge=0)
    train_batch_size: int = setting(4, "Samples per micro-batch on each device.", unit="samples", ge=1)
    gradient_accumulation_steps: int = setting(1, "Micro-batches per optimizer step.", unit="micro-batches", ge=1)
    learning_rate: float = setting(4e-7, "Peak learning rate.", gt=0)
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "sine", "polynomial"
    ] = setting(
        "constant_with_warmup",
        "Shape of the learning rate after lr_warmup_steps, to the run's last step. cosine_with_warmup means cosine.",
    )
    lr_end: float = setting(
        4e-7,
        "Learning rate at the end of a polynomial schedule.",
        ge=0,
        needs={"lr_scheduler": ("polynomial",)},
    )
    lr_num_cycles: int = setting(
        1,
        "Falls of the learning rate from its peak, each as long as the others.",
        ge=1,
        needs={"lr_scheduler": ("cosine_with_restarts",)},
    )
    lr_warmup_steps: int = setting(0, "Steps over which the learning rate rises linearly from 0.", unit="steps", ge=0)
    optimizer: OptimizerName | OtherOptimizer = setting(
        ...,
        "Optimizer by name, or module.Class of any torch.optim.Optimizer. adamw_8bit means bnb-adamw8bit; other names "
        "that SimpleTuner has for classes of optimi, bitsandbytes and torchao are understood too.",
    )
    optimizer_config: dict[str, Any] | str | None = setting(
        None, "Arguments of the optimizer's class: an object, or key=value separated by commas."
    )
    optimizer_release_gradients: bool = setting(
        False, "Step and free each gradient within the backward pass, so that few are in memory at a time."
    )
    max_grad_norm: float = setting(2.0, "Limit of the gradient, as grad_clip_method reads it; 0 for none.", ge=0)
    grad_clip_method: Literal["value", "norm"] = setting(
        "value", "value: clamp every element; norm: scale the global L2 norm.", needs={"max_grad_norm": (True,)}
    )
    caption_dropout_probability: float = setting(
        0.1,
        "Chance that a sample is trained with the empty caption, which guidance at sampling time relies on.",
        ge=0,
        le=1,
    )
    gradient_checkpointing: bool = setting(True, "Recompute activations in the backward pass: less memory, more time.")
    gradient_checkpointing_interval: int | None = setting(
        None,
        "Recompute every n-th block only.",
        unit="blocks",
        ge=1,
        needs={"gradient_checkpointing": (True,)},
    )

    @field_validator("lr_scheduler", mode="before")
    @classmethod
    def _other_name(cls, value: object) -> object:
        return "cosine" if value == "cosine_with_warmup" else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _known_name(cls, value: object) -> object:
        name = ALIASES.get(value, value) if isinstance(value, str) else str(value)
        if name in OPTIMIZERS or re.match(_CLASS_PATH, name):
            return name
        close = difflib.get_close_matches(name, [*OPTIMIZERS, *ALIASES], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{value!r} is not accepted: it is none of {', '.join(OPTIMIZERS)} or module.Class{hint}")

    @field_validator("optimizer_config")
    @classmethod
    def _as_object(cls, value: dict[str, Any] | str | None) -> dict[str, Any] | None:
        return parse_options(value) if isinstance(value, str) else value

    @property
    def optimizer_spec(self) -> OptimizerSpec:
        """What is known of the optimizer."""
        return optimizer_spec(self.optimizer)

    @property
    def optimizer_arguments(self) -> dict[str, Any]:
        """The optimizer's arguments as they were given; none of them says when it steps."""
        given = self.optimizer_config if isinstance(self.optimizer_config, dict) else {}
        return {key: value for key, value in given.items() if key != self.optimizer_spec.release}

    @property
    def gradient_limit(self) -> float:
        """Limit of the gradient, as grad_clip_method reads it; 0 for none, as where the optimizer bounds itself."""
        return 0.0 if self.optimizer_spec.bounds_itself else self.max_grad_norm

    @property
    def releases_gradients(self) -> bool:
        """Whether parameters are stepped within the backward pass, as the setting or the optimizer's argument says."""
        given = self.optimizer_config if isinstance(self.optimizer_config, dict) else {}
        own = given.get(self.optimizer_spec.release or "", False)
        return self.optimizer_release_gradients or str(own).lower() in ("true", "yes", "on", "1")
