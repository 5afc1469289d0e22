"""The exponential moving average of the trained weights."""

from __future__ import annotations

from tuner.config.settings import Topic, setting

_EMA = {"use_ema": (True,)}


class EmaConfig(Topic):
    """Moving average of what trains; the trained weights themselves are kept too."""

    use_ema: bool = setting(False, "Keep a moving average of the trained weights and save it as well.")
    ema_decay: float = setting(
        0.995, "Upper bound of the decay, which ramps up as (1 + s) / (10 + s).", ge=0, lt=1, needs=_EMA
    )
    ema_update_interval: int = setting(1, "Steps between updates of the average.", unit="steps", ge=1, needs=_EMA)
