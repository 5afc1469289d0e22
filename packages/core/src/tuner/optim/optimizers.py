"""The optimizers by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optimi
import torch
from torch.nn import Parameter
from torch.optim import Optimizer


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer and its settings.

    Attributes:
        description: One line for people.
        factory: The optimizer's class.
        settings: Its keyword arguments besides the learning rate.
    """

    description: str
    factory: type[Optimizer]
    settings: dict[str, Any] = field(default_factory=dict)


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "adamw_bf16": OptimizerSpec(
        "AdamW for bfloat16 weights, with Kahan summation: the safe choice",
        optimi.AdamW,
        {"betas": (0.9, 0.999), "weight_decay": 0.01, "eps": 1e-6},
    ),
    "optimi-adamw": OptimizerSpec(
        "AdamW that forgets faster and has no weight decay",
        optimi.AdamW,
        {"betas": (0.9, 0.99), "weight_decay": 0.0, "eps": 1e-6},
    ),
    "optimi-lion": OptimizerSpec(
        "Lion: half of AdamW's state; wants about a fifth of its learning rate",
        optimi.Lion,
        {"betas": (0.9, 0.99), "weight_decay": 0.0},
    ),
}
"""Optimizer by name."""


def create_optimizer(
    name: str, named_parameters: Sequence[tuple[str, Parameter]], lr: float, dtype: torch.dtype
) -> Optimizer:
    """Make an optimizer over named parameters.

    Args:
        name: A key of `OPTIMIZERS`.
        named_parameters: What to train; the names identify the state in checkpoints.
        lr: Learning rate.
        dtype: Of the parameters. In a short format the rounding error of each update is kept and added to the next
            (Kahan summation): without it small updates vanish.
    """
    spec = OPTIMIZERS[name]
    # Said outright: left open, the optimizer finds out in its first step, and a resumed one would never take it.
    kahan = dtype in (torch.bfloat16, torch.float16)
    return spec.factory(list(named_parameters), lr=lr, kahan_sum=kahan, **spec.settings)  # type: ignore[call-arg]
