"""The optimizers by name, as declarations. Imports no torch: the classes are found when they are needed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LEARNING_RATE = "learning_rate and lr_scheduler set it"
_RELEASE = "optimizer_release_gradients sets it"


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer and its settings.

    Attributes:
        path: Its class, as `module.Class`.
        defaults: Its keyword arguments besides the learning rate, where they differ from the library's.
        package: What must be installed for it.
        extra: The extra of tuner-core that installs it, or nothing where it always is.
        off_cuda: The class that runs in its place on other devices, or None.
        rounding: The argument that keeps updates of 16-bit weights which rounding would lose, or None.
        draws: Whether it draws from torch's global generator.
        compiles: Whether its step is compiled by inductor.
        learning_rate: Default of learning_rate, or None.
        bounds_itself: Whether it limits its own updates, so that max_grad_norm is not applied.
        steps_together: Whether a step needs all gradients at once.
        release: The argument that makes a class with `step_param` leave steps to the backward pass, or None.
        reports: Values of its first parameter group that are logged.
        sharded: Arguments with which it is right for parameters that are shared out over processes, or None where
            that is not proven.
        fixed: Arguments that nobody may give -> why.
    """

    path: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""
    extra: str = ""
    off_cuda: str | None = None
    rounding: str | None = None
    draws: bool = False
    compiles: bool = False
    learning_rate: float | None = None
    bounds_itself: bool = False
    steps_together: bool = False
    release: str | None = None
    reports: tuple[str, ...] = ()
    sharded: Mapping[str, Any] | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_missing(self) -> bool:
        """Whether its package is not installed."""
        return importlib.util.find_spec(self.path.partition(".")[0]) is None


_OPTIMI: dict[str, Any] = {
    "rounding": "kahan_sum",
    "sharded": {"triton": False},  # its kernels know no such parameters
    "fixed": {"lr": _LEARNING_RATE, "gradient_release": _RELEASE},
}
_BITSANDBYTES: dict[str, Any] = {
    "package": "bitsandbytes",
    "extra": "bitsandbytes",
    "fixed": {"lr": _LEARNING_RATE, "is_paged": "the optimizer's name says it"},
}
_TORCHAO: dict[str, Any] = {
    "package": "torchao",
    "extra": "torchao",
    "rounding": "bf16_stochastic_round",
    "draws": True,
    "compiles": True,
    "fixed": {"lr": _LEARNING_RATE},
}
_LIBRARIES = {"optimi": _OPTIMI, "bitsandbytes": _BITSANDBYTES, "torchao": _TORCHAO}
"""Library -> what all of its classes have in common."""

_ADAMW = {"betas": (0.9, 0.999), "weight_decay": 0.01, "eps": 1e-6}

OPTIMIZERS: dict[str, OptimizerSpec] = {
    "adamw_bf16": OptimizerSpec("optimi.AdamW", _ADAMW, **_OPTIMI),
    "optimi-adamw": OptimizerSpec("optimi.AdamW", {"betas": (0.9, 0.99), "weight_decay": 0.0, "eps": 1e-6}, **_OPTIMI),
    "optimi-lion": OptimizerSpec("optimi.Lion", {"betas": (0.9, 0.99), "weight_decay": 0.0}, **_OPTIMI),
    "optimi-stableadamw": OptimizerSpec(
        "optimi.StableAdamW",
        {"betas": (0.9, 0.99), "weight_decay": 0.01, "eps": 1e-6},
        bounds_itself=True,
        **_OPTIMI,
    ),
    "bnb-lion8bit-paged": OptimizerSpec(
        "bitsandbytes.optim.PagedLion8bit",
        {"betas": (0.9, 0.99), "weight_decay": 0.0},
        off_cuda="bitsandbytes.optim.Lion8bit",
        **_BITSANDBYTES,
    ),
    "bnb-adamw8bit": OptimizerSpec("bitsandbytes.optim.AdamW8bit", _ADAMW, **_BITSANDBYTES),
    "ao-adamw8bit": OptimizerSpec("torchao.optim.AdamW8bit", _ADAMW, **_TORCHAO),
    "prodigy": OptimizerSpec(
        "prodigyplus.ProdigyPlusScheduleFree",
        {"d0": 1e-6, "use_schedulefree": False, "split_groups": False},
        package="prodigy-plus-schedule-free",
        extra="prodigy",
        rounding="stochastic_rounding",
        draws=True,
        learning_rate=1.0,
        bounds_itself=True,
        steps_together=True,
        release="fused_back_pass",
        reports=("d",),
        fixed={
            "lr": _LEARNING_RATE,
            "use_schedulefree": "what is saved and shown would not be what it averages; use_ema averages weights",
            "split_groups": "all that trains is one group",
        },
    ),
    "adafactor": OptimizerSpec("torch.optim.Adafactor", fixed={"lr": _LEARNING_RATE}),
}
"""Optimizer by name.

Kahan summation adds the rounding error of each update to the next; stochastic rounding is right on average.
"""

ALIASES = {
    "adamw_8bit": "bnb-adamw8bit",
    "optimi-adam": "optimi.Adam",
    "optimi-adan": "optimi.Adan",
    "optimi-radam": "optimi.RAdam",
    "optimi-ranger": "optimi.Ranger",
    "optimi-sgd": "optimi.SGD",
    "bnb-adagrad": "bitsandbytes.optim.Adagrad",
    "bnb-adagrad8bit": "bitsandbytes.optim.Adagrad8bit",
    "bnb-adam": "bitsandbytes.optim.Adam",
    "bnb-adam8bit": "bitsandbytes.optim.Adam8bit",
    "bnb-adamw": "bitsandbytes.optim.AdamW",
    "bnb-adamw-paged": "bitsandbytes.optim.PagedAdamW",
    "bnb-adamw8bit-paged": "bitsandbytes.optim.PagedAdamW8bit",
    "bnb-ademamix": "bitsandbytes.optim.AdEMAMix",
    "bnb-ademamix-paged": "bitsandbytes.optim.PagedAdEMAMix",
    "bnb-ademamix8bit": "bitsandbytes.optim.AdEMAMix8bit",
    "bnb-ademamix8bit-paged": "bitsandbytes.optim.PagedAdEMAMix8bit",
    "bnb-lion": "bitsandbytes.optim.Lion",
    "bnb-lion-paged": "bitsandbytes.optim.PagedLion",
    "bnb-lion8bit": "bitsandbytes.optim.Lion8bit",
    "ao-adamfp8": "torchao.optim.AdamFp8",
    "ao-adamw4bit": "torchao.optim.AdamW4bit",
    "ao-adamwfp8": "torchao.optim.AdamWFp8",
}
"""Names that users' files have -> those of `OPTIMIZERS`, or classes, which keep the defaults of their libraries."""


def optimizer_spec(name: str) -> OptimizerSpec:
    """Return the declaration of an optimizer.

    Args:
        name: A key of `OPTIMIZERS`, or the path of a class, of which its library is known or nothing.
    """
    library = name.partition(".")[0]
    unknown = {"package": library, "draws": True, "fixed": {"lr": _LEARNING_RATE}}
    return OPTIMIZERS.get(name) or OptimizerSpec(name, **_LIBRARIES.get(library, unknown))


def find_optimizer(path: str) -> type[Any]:
    """Import the class of an optimizer, and torch with it.

    Raises:
        ValueError: There is none at this path, it is no optimizer, or importing it fails.
    """
    from torch.optim import Optimizer

    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # a library may fail in any way, such as for a missing driver
        raise ValueError(f"{module} cannot be imported: {error}") from error
    if found is None:
        raise ValueError(f"{module} has no {name}")
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise ValueError(f"{path} is no torch.optim.Optimizer")
    return found
