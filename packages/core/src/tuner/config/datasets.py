"""The entries of a data set file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tuner.config.data import (
    CaptionStrategy,
    ResolutionType,
    normalise_caption_strategy,
    normalise_resolution_type,
)
from tuner.config.settings import Topic, setting

CropAspect = Literal["square", "preserve", "closest", "random"]
CropStyle = Literal["random", "center", "corner", "face"]


class DatasetConfig(Topic):
    """A folder of pictures to train on. Defaults that the run's configuration sets are filled in before validation."""

    id: str = setting(
        ..., "Name of the data set, unique in the file, without slashes.", min_length=1, pattern=r"^[^/\\]+$"
    )
    type: Literal["local"] = setting("local", "Where the pictures are.")
    dataset_type: Literal["image"] = setting("image", "What the entry is.")
    disabled: bool = setting(False, "Leave the entry out.")
    instance_data_dir: Path = setting(..., "Folder of the pictures, searched with its sub-folders.")
    cache_dir_vae: Path | None = setting(None, "Folder of the latents; a folder below cache_dir if not given.")
    caption_strategy: CaptionStrategy = setting("filename", "Where captions come from.")
    instance_prompt: str | list[str] | None = setting(
        None,
        "Caption, or captions to draw from, of the strategy instanceprompt.",
        needs={"caption_strategy": ("instanceprompt",)},
    )
    crop: bool = setting(False, "Crop to crop_aspect; otherwise only what rounding to the bucket's sides leaves over.")
    crop_aspect: CropAspect = setting("square", "Shape that pictures are cropped to.", needs={"crop": (True,)})
    crop_aspect_buckets: list[float] | None = setting(
        None, "Aspect ratios (width / height) to choose from.", needs={"crop_aspect": ("closest", "random")}
    )
    crop_style: CropStyle = setting("random", "Which part of the picture a crop keeps.", needs={"crop": (True,)})
    resolution: float = setting(1024, "Size of training pictures, in the unit of resolution_type.", gt=0)
    resolution_type: ResolutionType = setting("pixel_area", "Unit of sizes: pixel_area, area or pixel.")
    minimum_image_size: float | None = setting(None, "Leave out smaller pictures; 0 keeps all.", ge=0)
    maximum_image_size: float | None = setting(
        None,
        "Pictures above this are reduced to target_downsample_size before cropping.",
        gt=0,
        needs={"crop": (True,)},
    )
    target_downsample_size: float | None = setting(
        None,
        "Size that large pictures are reduced to before they are cropped.",
        gt=0,
        needs={"maximum_image_size": (True,)},
    )
    is_regularisation_data: bool = setting(
        False, "Keep what the base model does with these pictures: the target is its own prediction."
    )
    conditioning_data: str | None = setting(
        None, "Id of the entry that holds a mask for each picture: white is learnt, black is ignored."
    )
    repeats: int = setting(0, "Extra passes over each picture per epoch.", ge=0)
    metadata_backend: Literal["discovery"] = setting("discovery", "How sizes are found: by reading each file's header.")
    skip_file_discovery: Literal[""] = setting("", "Stages that must not look for new files.")

    @field_validator("crop_style", mode="before")
    @classmethod
    def _centre(cls, value: object) -> object:
        return "center" if value == "centre" else value

    _resolution_type = field_validator("resolution_type", mode="before")(staticmethod(normalise_resolution_type))
    _caption_strategy = field_validator("caption_strategy", mode="before")(staticmethod(normalise_caption_strategy))

    @model_validator(mode="after")
    def _consistent(self) -> DatasetConfig:
        if self.caption_strategy == "instanceprompt" and not self.instance_prompt:
            raise ValueError("caption_strategy instanceprompt needs an instance_prompt")
        if self.crop and self.crop_aspect in ("closest", "random") and not self.crop_aspect_buckets:
            raise ValueError(f"crop_aspect {self.crop_aspect} needs crop_aspect_buckets, such as [1.0, 0.75, 1.33]")
        if self.crop_aspect_buckets and any(ratio <= 0 for ratio in self.crop_aspect_buckets):
            raise ValueError("crop_aspect_buckets must all be greater than 0")
        if self.maximum_image_size and not self.target_downsample_size:
            raise ValueError("maximum_image_size needs a target_downsample_size")
        return self


class MaskConfig(Topic):
    """A folder of masks, one per picture of the data set that names it: the same relative path but for its suffix."""

    id: str = setting(..., "Name of the entry, unique in the file.", min_length=1)
    type: Literal["local"] = setting("local", "Where the masks are.")
    dataset_type: Literal["conditioning"] = setting("conditioning", "What the entry is.")
    conditioning_type: Literal["mask"] = setting(..., "What the pictures are used as.")
    instance_data_dir: Path = setting(..., "Folder of the masks, searched with its sub-folders.")
    disabled: bool = setting(False, "Leave the entry out.")


class TextCacheConfig(Topic):
    """The entry that says where text conditionings are cached."""

    id: str = setting(..., "Name of the entry, unique in the file.", min_length=1)
    type: Literal["local"] = setting("local", "Where the cache is.")
    dataset_type: Literal["text_embeds"] = setting("text_embeds", "What the entry is.")
    disabled: bool = setting(False, "Leave the entry out.")
    default: bool = setting(False, "The one that is used; exactly one may be.")
    cache_dir: Path | None = setting(None, "Folder of the text conditionings; a folder below cache_dir if not given.")
    write_batch_size: int | None = Field(default=None, ge=1, description="Entries written together.")
