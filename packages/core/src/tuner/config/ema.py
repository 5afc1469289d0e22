"""The exponential moving average of the trained weights."""

from __future__ import annotations

from typing import Literal

from tuner.config.settings import Topic, setting

_EMA = {"use_ema": (True,)}


class EmaConfig(Topic):
    """Moving average of what trains; the trained weights themselves are kept too."""

    use_ema: bool = setting(False, "Keep a moving average of the trained weights and save it as well.")
    ema_decay: float = setting(
        0.995, "Upper bound of the decay, which ramps up as (1 + s) / (10 + s).", ge=0, lt=1, needs=_EMA
    )
    ema_update_interval: int = setting(1, "Steps between updates of the average.", unit="steps", ge=1, needs=_EMA)
    ema_warmup_steps: int = setting(
        0, "Steps until which the average is the weights themselves.", unit="steps", ge=0, needs=_EMA
    )
    ema_device: Literal["accelerator", "cpu"] = setting(
        "accelerator",
        "Where the average is kept. cpu: it comes to the accelerator for each update, and goes back.",
        needs=_EMA,
    )
    ema_cpu_only: bool = setting(
        False, "Keep and update the average on the CPU; the weights are copied there for each update.", needs=_EMA
    )
    ema_foreach_disable: bool = setting(
        False,
        "Update tensor by tensor instead of all at once: slower, and with ema_device cpu less memory.",
        needs=_EMA,
    )
    ema_validation: Literal["none", "ema_only", "comparison"] = setting(
        "comparison",
        "Make validation pictures with the average: not at all, instead of, or beside those of the trained weights.",
        needs={**_EMA, "validation_step_interval": (True,)},
    )
