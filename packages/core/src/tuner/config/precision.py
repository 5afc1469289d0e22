"""Number formats."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from tuner.config.settings import Topic, setting


class PrecisionConfig(Topic):
    """Number formats of the denoiser, the trained weights and the encoders."""

    mixed_precision: Literal["no", "bf16"] = setting(
        "bf16", "Format of the denoiser and of what trains: bf16, or no for float32."
    )
    base_model_precision: Literal["no_change"] = setting("no_change", "Storage format of the frozen base model.")

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _fp32_is_no(cls, value: object) -> object:
        # YAML reads a bare `no` as false.
        if value is False:
            return "no"
        return "no" if isinstance(value, str) and value.lower() in {"fp32", "no"} else value
