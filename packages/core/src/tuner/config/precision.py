"""Number formats."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from tuner.config.settings import Topic, setting

StoredPrecision = Literal[
    "no_change", "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto", "fp8uz-quanto",
    "int8-torchao", "fp8-torchao", "int4-torchao", "nf4-bnb",
]  # fmt: skip
"""Formats that frozen weights may be stored in."""

ENCODER_KEYS = tuple(f"text_encoder_{number}_precision" for number in range(1, 5))
"""Settings of the text encoders, in the order in which families count theirs."""


class PrecisionConfig(Topic):
    """Number formats of the denoiser, the trained weights and the encoders."""

    mixed_precision: Literal["no", "bf16"] = setting(
        "bf16", "Format of the denoiser and of what trains: bf16, or no for float32.", known=("fp16", "fp8")
    )
    base_model_precision: StoredPrecision = setting(
        "no_change",
        "Storage format of the frozen base model.",
        needs={"model_type": ("lora",)},
        known=("fp8-native",),
    )
    text_encoder_1_precision: StoredPrecision = setting("no_change", "Storage format of the first text encoder.")
    text_encoder_2_precision: StoredPrecision = setting("no_change", "Storage format of the second text encoder.")
    text_encoder_3_precision: StoredPrecision = setting("no_change", "Storage format of the third text encoder.")
    text_encoder_4_precision: StoredPrecision = setting("no_change", "Storage format of the fourth text encoder.")
    quantize_via: Literal["cpu", "accelerator"] = setting(
        "cpu", "Where weights are converted to their storage format; the stored weights are the same."
    )

    def scheme_of_encoder(self, number: int) -> str:
        """Return the storage format of a text encoder, counted from 0."""
        value: str = getattr(self, ENCODER_KEYS[number]) if number < len(ENCODER_KEYS) else "no_change"
        return value

    @field_validator("quantize_via", mode="before")
    @classmethod
    def _families_load_their_parts(cls, value: object) -> object:
        if value == "pipeline":
            raise ValueError(
                "pipeline lets a diffusers pipeline quantise while it loads, but here parts are loaded one by one; "
                "use cpu, or accelerator"
            )
        return value

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _fp32_is_no(cls, value: object) -> object:
        # YAML reads a bare `no` as false.
        if value is False:
            return "no"
        return "no" if isinstance(value, str) and value.lower() in {"fp32", "no"} else value
