"""The exponential moving average of the trained weights."""

from __future__ import annotations

from typing import Literal

from tuner.config.settings import NOT_YET, Topic, setting

_EMA = {"use_ema": (True,)}


class EmaConfig(Topic):
    """Moving average of what trains; the trained weights themselves are kept too."""

    use_ema: bool = setting(False, "Keep a moving average of the trained weights and save it as well.")
    ema_decay: float = setting(
        0.995, "Upper bound of the decay, which ramps up as (1 + s) / (10 + s).", ge=0, lt=1, needs=_EMA
    )
    ema_update_interval: int = setting(1, "Steps between updates of the average.", unit="steps", ge=1, needs=_EMA)
    ema_warmup_steps: int = setting(
        0, "Steps before the average begins.", unit="steps", ge=0, needs=_EMA, unread=f"{NOT_YET}: it begins at step 1"
    )
    ema_device: Literal["accelerator", "cpu"] = setting(
        "accelerator",
        "Where the average is kept.",
        needs=_EMA,
        unread=f"{NOT_YET}: it is kept beside the trained weights",
    )
    ema_cpu_only: bool = setting(
        False, "Keep the average on the CPU.", needs=_EMA, unread=f"{NOT_YET}: it is kept beside the trained weights"
    )
    ema_foreach_disable: bool = setting(
        False,
        "Update tensor by tensor instead of all at once.",
        needs=_EMA,
        unread="both ways give the same numbers; all at once is faster",
    )
    ema_validation: Literal["none", "ema_only", "comparison"] = setting(
        "none",
        "Make validation pictures with the average: not at all, instead of, or beside those of the trained weights.",
        needs=_EMA,
        unread=f"{NOT_YET}: validation pictures show the trained weights",
    )
