"""How noise levels are drawn."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from tuner.config.settings import Topic, setting
from tuner.flow import AutoShift, CubicDensity, Density, SigmaSchedule

_BETA = {"flow_use_beta_schedule": (True,), "flow_custom_timesteps": (False,)}


class FlowConfig(Topic):
    """The density of sigma (1 is pure noise) and its shift."""

    flow_schedule_shift: float | None = setting(
        3.0,
        "Shift of sigma towards noise (above 1) or detail (below 1); 0 or none for no shift.",
        ge=0,
        needs={"flow_schedule_auto_shift": (False,), "flow_custom_timesteps": (False,)},
    )
    flow_schedule_auto_shift: bool = setting(
        False,
        "Derive the shift from the number of latent tokens of each bucket; replaces flow_schedule_shift.",
        needs={"flow_custom_timesteps": (False,)},
    )
    flow_sigmoid_scale: float = setting(
        1.0,
        "Scale of the normal draw under the sigmoid of the logit-normal density.",
        gt=0,
        needs={
            "flow_use_uniform_schedule": (False,),
            "flow_use_beta_schedule": (False,),
            "flow_cubic_schedule_weights": (False,),
            "flow_custom_timesteps": (False,),
        },
    )
    flow_use_uniform_schedule: bool = setting(False, "Draw sigma uniformly.", needs={"flow_custom_timesteps": (False,)})
    flow_use_beta_schedule: bool = setting(
        False, "Draw sigma from a Beta density.", needs={"flow_custom_timesteps": (False,)}
    )
    flow_beta_schedule_alpha: float = setting(2.0, "Alpha of the Beta density.", gt=0, needs=_BETA)
    flow_beta_schedule_beta: float = setting(2.0, "Beta of the Beta density.", gt=0, needs=_BETA)
    flow_cubic_schedule_weights: tuple[float, ...] = setting(
        (),
        "Draw sigma from a density through these values, evenly spaced from sigma 0 to 1 and joined by cubics that do "
        "not overshoot; as a list or separated by commas.",
        needs={"flow_custom_timesteps": (False,)},
    )
    flow_custom_timesteps: tuple[float, ...] = setting(
        (),
        "Noise levels to choose from, as a list or separated by commas: sigmas if none exceeds 1, else of 0 to 1000.",
    )
    flow_timesteps_mode: Literal["fixed-list", "round-robin"] = setting(
        "fixed-list",
        "How flow_custom_timesteps are chosen from: each sample draws one, or samples take them in turn.",
        needs={"flow_custom_timesteps": (True,)},
    )

    @field_validator("flow_schedule_shift", mode="before")
    @classmethod
    def _none_is_off(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lower() == "none":
            return None
        return value

    @field_validator("flow_custom_timesteps", "flow_cubic_schedule_weights", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part for part in value.strip("[] ").split(",") if part.strip())

    @field_validator("flow_custom_timesteps")
    @classmethod
    def _in_range(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        outside = [level for level in value if not 0 <= level <= 1000]
        if outside:
            raise ValueError(f"noise levels must lie in 0 to 1 or 0 to 1000; got {outside[0]}")
        return value

    @field_validator("flow_cubic_schedule_weights")
    @classmethod
    def _is_a_density(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (min(value) < 0 or max(value) == 0):
            raise ValueError(f"a density is nowhere below 0 and somewhere above it; got {list(value)}")
        return value

    def schedule(self, auto_shift: AutoShift) -> SigmaSchedule:
        """Return the schedule these settings describe; `auto_shift` is the model's own."""
        density: Density = "logit_normal"
        if self.flow_use_uniform_schedule:
            density = "uniform"
        elif self.flow_use_beta_schedule:
            density = "beta"
        levels = self.flow_custom_timesteps
        unit = 1000.0 if any(level > 1 for level in levels) else 1.0
        return SigmaSchedule(
            density=density,
            scale=self.flow_sigmoid_scale,
            alpha=self.flow_beta_schedule_alpha,
            beta=self.flow_beta_schedule_beta,
            cubic=CubicDensity(self.flow_cubic_schedule_weights) if self.flow_cubic_schedule_weights else None,
            shift=self.flow_schedule_shift or None,
            auto_shift=auto_shift if self.flow_schedule_auto_shift else None,
            fixed=tuple(level / unit for level in levels),
            in_turn=self.flow_timesteps_mode == "round-robin",
        )
