"""The data set file, and defaults for data sets that lack a key of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from tuner.config.settings import Topic, setting

ResolutionType = Literal["pixel_area", "area", "pixel"]
CaptionStrategy = Literal["filename", "textfile", "instanceprompt", "parquet", "csv", "huggingface"]


SkippedStages = Annotated[
    tuple[Literal["vae", "aspect", "metadata", "text"], ...],
    BeforeValidator(lambda value: value.replace(",", " ").split() if isinstance(value, str) else value),
]
"""Stages of caching, as a list or as words separated by spaces or commas."""

NOTHING_TO_SKIP = dict.fromkeys(
    [("vae",), ("text",), ("vae", "text"), ("text", "vae")],
    "what is missing in the caches is found by content, without searching folders",
)
"""Values of skip_file_discovery that change nothing, and why."""


def normalise_resolution_type(value: object) -> object:
    """Accept pixel_edge for pixel."""
    return "pixel" if value == "pixel_edge" else value


def normalise_caption_strategy(value: object) -> object:
    """Accept instance_prompt for instanceprompt."""
    return "instanceprompt" if value == "instance_prompt" else value


class DataConfig(Topic):
    """Where the data sets are described, and what they take over unless they say otherwise."""

    data_backend_config: Path = setting(
        ..., "The data set file, looked for in the working directory, beside the configuration and in config/."
    )
    resolution: float = setting(1024, "Size of training pictures, in the unit of resolution_type.", gt=0)
    resolution_type: ResolutionType = setting(
        "pixel_area",
        "pixel_area: the edge of a square of the target area; area: megapixels; pixel: the shorter edge.",
    )
    minimum_image_size: float | None = setting(
        None, "Leave out pictures smaller than this, in the unit of resolution_type; 0 keeps all.", ge=0
    )
    aspect_bucket_rounding: int = setting(
        2, "Decimals of the aspect ratio that names a bucket.", unit="decimals", ge=1, le=9
    )
    aspect_bucket_alignment: Literal[8, 16, 24, 32, 64] = setting(
        64, "Sides of training pictures are rounded to multiples of this.", unit="pixels"
    )
    disable_bucket_pruning: bool = setting(
        False, "Keep buckets that hold fewer samples than a batch instead of leaving them out."
    )
    caption_strategy: CaptionStrategy = setting(
        "filename", "Where captions come from: file names, text files, instance_prompt, or a table."
    )
    instance_prompt: str | list[str] | None = setting(
        None, "Caption, or captions to draw from, of the strategy instanceprompt."
    )

    skip_file_discovery: SkippedStages = setting(
        (), "Stages that do not look for new files: vae, aspect, metadata, text.", unread=NOTHING_TO_SKIP
    )
    data_backend_sampling: Literal["auto-weighting", "uniform"] = setting(
        "auto-weighting",
        "How often data sets are drawn from: by probability times size, or by probability alone.",
    )
    allow_dataset_oversubscription: bool = setting(
        False, "Raise repeats, where none are given, until every bucket fills a batch."
    )
    override_dataset_config: bool = setting(
        False, "Let changed data set settings replace cached ones.", unread="caches follow every change by themselves"
    )

    @field_validator("aspect_bucket_alignment", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.strip().isdigit() else value

    _resolution_type = field_validator("resolution_type", mode="before")(staticmethod(normalise_resolution_type))
    _caption_strategy = field_validator("caption_strategy", mode="before")(staticmethod(normalise_caption_strategy))
