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

_REFUSED = {
    "fp8": (
        "computes in 8 bits, which needs CUDA and an engine that this version does not have; use bf16, and "
        "base_model_precision to store a frozen base model in 8 bits"
    ),
    "fp8-native": (
        "casts whole layers to 8 bits and back, which fails while training; use fp8-torchao, which stores the same bits"
    ),
}
"""Formats that other trainers have -> why this one has not."""


class PrecisionConfig(Topic):
    """Number formats of the denoiser, the trained weights and the encoders."""

    mixed_precision: Literal["no", "bf16", "fp16"] = setting(
        "bf16",
        "Format of the denoiser and of what trains: bf16, or no for float32. With fp16 the denoiser computes in "
        "float16, what trains is float32, and losses are scaled.",
    )
    base_model_precision: StoredPrecision = setting(
        "no_change",
        "Storage format of the frozen base model.",
        needs={"model_type": ("lora",)},
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

    @field_validator("mixed_precision", "base_model_precision", mode="before")
    @classmethod
    def _says_why_not(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() in _REFUSED:
            raise ValueError(f"{value} {_REFUSED[value.lower()]}")
        return value

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _fp32_is_no(cls, value: object) -> object:
        # YAML reads a bare `no` as false.
        if value is False:
            return "no"
        return "no" if isinstance(value, str) and value.lower() in {"fp32", "no"} else value
