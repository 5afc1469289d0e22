"""The optimizer and the length of the run."""

from __future__ import annotations

from typing import Literal

from tuner.config.settings import NOT_YET, Topic, setting


class OptimisationConfig(Topic):
    """Steps, batches, learning rate, optimizer, clipping."""

    max_train_steps: int = setting(0, "Optimizer steps to take; 0 if num_train_epochs is given.", unit="steps", ge=0)
    num_train_epochs: int = setting(0, "Passes over the data sets; 0 if max_train_steps is given.", unit="epochs", ge=0)
    train_batch_size: int = setting(4, "Samples per micro-batch on each device.", unit="samples", ge=1)
    gradient_accumulation_steps: int = setting(1, "Micro-batches per optimizer step.", unit="micro-batches", ge=1)
    learning_rate: float = setting(4e-7, "Peak learning rate.", gt=0)
    lr_scheduler: Literal["constant", "constant_with_warmup"] = setting(
        "constant_with_warmup",
        "Shape of the learning rate; constant with lr_warmup_steps above 0 warms up too.",
        known=("linear", "sine", "cosine", "cosine_with_restarts", "cosine_with_warmup", "polynomial"),
    )
    lr_end: float = setting(
        4e-7, "Learning rate at the end of a polynomial schedule.", ge=0, unread=f"{NOT_YET}: no schedule has an end"
    )
    lr_warmup_steps: int = setting(0, "Steps over which the learning rate rises linearly from 0.", unit="steps", ge=0)
    optimizer: Literal["adamw_bf16", "optimi-adamw", "optimi-lion"] = setting(
        ...,
        "Optimizer by name.",
        known=(
            "optimi-stableadamw", "bnb-lion8bit-paged", "bnb-adamw8bit", "adamw_8bit", "ao-adamw8bit", "prodigy",
            "adafactor",
        ),
    )  # fmt: skip
    optimizer_config: str | None = setting(
        None,
        "Settings of the optimizer, as key=value separated by commas.",
        unread=f"{NOT_YET}: optimizers run with their defaults",
    )
    optimizer_release_gradients: bool = setting(
        False,
        "Step and free each gradient within the backward pass.",
        unread=f"{NOT_YET}: gradients live until the step",
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
