"""Validation pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import field_validator

from tuner.config.settings import Topic, setting

_PICTURES = {"validation_step_interval": (True,)}


class ValidationConfig(Topic):
    """Pictures that show what the model has learnt so far."""

    validation_prompt: str | None = setting(None, "Prompt of the pictures labelled validation.", needs=_PICTURES)
    user_prompt_library: Path | None = setting(
        None,
        "JSON file of further prompts: nickname -> prompt, or -> an object of prompt and adapter_strength.",
        needs=_PICTURES,
    )
    validation_step_interval: int = setting(
        100, "Steps between rounds of pictures; 0 for none.", unit="steps", ge=0, aliases=("validation_steps",)
    )
    validation_resolution: str = setting(
        "256", "Size of the pictures: N or WxH, or several separated by commas.", unit="pixels", needs=_PICTURES
    )
    validation_num_inference_steps: int = setting(30, "Sampling steps.", unit="steps", ge=1, needs=_PICTURES)
    validation_guidance: float = setting(7.5, "Guidance scale; at most 1 for none.", ge=0, needs=_PICTURES)
    validation_negative_prompt: str = setting("blurry, cropped, ugly", "Prompt to steer away from.", needs=_PICTURES)
    validation_disable_unconditional: bool = setting(
        False, "Leave out the picture of the empty prompt.", needs=_PICTURES
    )
    validation_seed: int | None = setting(
        None, "Seed of the pictures' noise; the run's seed if not given.", ge=0, needs=_PICTURES
    )
    validation_prompt_library: bool | str = setting(
        False,
        "Also make pictures of a built-in set of prompts; the path of a file stands for user_prompt_library.",
        needs=_PICTURES,
    )
    validation_guidance_rescale: float = setting(
        0.0,
        "Share by which guided velocities are brought back to the spread of those without guidance; 0 for none.",
        ge=0,
        le=1,
        needs=_PICTURES,
    )
    validation_lycoris_strength: float = setting(
        1.0,
        "Strength of the adapter in pictures: 1 as it is trained, 0 the base model. Prompts may have their own.",
        needs={**_PICTURES, "model_type": ("lora",)},
    )
    validation_torch_compile: bool = setting(
        False,
        "Compile the denoiser's blocks while pictures are made, by dynamo_backend or else inductor; pays off where "
        "there are many pictures of one size.",
        needs=_PICTURES,
    )
    validation_preview: bool = setting(
        False, "Send pictures while they are sampled.", needs={**_PICTURES, "webhook_config": (True,)}
    )
    validation_preview_steps: int = setting(
        1, "Sampling steps between previews.", unit="steps", ge=1, needs={"validation_preview": (True,)}
    )
    validation_preview_autoencoder: str | None = setting(
        None,
        "Tiny autoencoder that decodes previews, a folder or a repository of the hub; the family's if not given.",
        needs={"validation_preview": (True,)},
    )
    disable_benchmark: bool = setting(False, "Leave out the base model's pictures before step 1.", needs=_PICTURES)

    @field_validator("validation_prompt_library", mode="before")
    @classmethod
    def _words_are_no_path(cls, value: Any) -> Any:
        """A file is not called "false"."""
        word = value.strip().lower() if isinstance(value, str) else None
        if word in {"true", "1", "yes", "on"}:
            return True
        return False if word in {"false", "0", "no", "off"} else value

    @field_validator("validation_resolution", mode="before")
    @classmethod
    def _to_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("validation_resolution")
    @classmethod
    def _parses(cls, value: str) -> str:
        parse_sizes(value)
        return value

    def sizes(self) -> list[tuple[int, int]]:
        """Return the (width, height) of the pictures, in pixels."""
        return parse_sizes(self.validation_resolution)


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """Parse "N", "WxH" or a comma list of them into (width, height) pairs.

    Raises ValueError on anything else.
    """
    sizes = []
    for part in text.lower().replace(" ", "").split(","):
        width, cross, height = part.partition("x")
        if (
            not width.isdecimal()
            or (cross and not height.isdecimal())
            or int(width) == 0
            or (cross and int(height) == 0)
        ):
            raise ValueError(f"{part!r} is no picture size; write N or WxH, such as 1024 or 1280x768")
        sizes.append((int(width), int(height) if cross else int(width)))
    return sizes
