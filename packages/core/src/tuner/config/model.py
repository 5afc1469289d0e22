"""What is trained, and where its results go."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from tuner.config.settings import Topic, setting


class ModelConfig(Topic):
    """The base model, the way of training it, and the output folder."""

    model_family: str = setting(..., "Model family, one of those that `tuner families` lists.")
    model_type: Literal["lora", "full"] = setting(..., "Train an adapter (lora) or all weights of the denoiser (full).")
    model_flavour: str | None = setting(
        None,
        "Published weights of the family to start from; the family's default if not given.",
        needs={"pretrained_model_name_or_path": (False,)},
    )
    pretrained_model_name_or_path: str | None = setting(
        None, "Local folder or hub repository in diffusers layout; replaces the flavour's repository."
    )
    revision: str | None = setting(None, "Branch, tag or commit of the hub repository.")
    output_dir: Path = setting(..., "Folder for checkpoints, pictures, logs and the result.")
    seed: int = setting(42, "Seed of every random draw; 0 takes the clock, -1 a random number.", ge=-1)
    i_know_what_i_am_doing: bool = setting(
        False, "Allow what is refused as a likely mistake, such as resuming with another batch size or data set."
    )

    @field_validator("model_family", mode="after")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()

    @field_validator("model_type", mode="before")
    @classmethod
    def _lower_type(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
