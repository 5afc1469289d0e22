"""The entries of a data set file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tuner.config.data import (
    NOTHING_TO_SKIP,
    CaptionStrategy,
    ResolutionType,
    SkippedStages,
    normalise_caption_strategy,
    normalise_resolution_type,
)
from tuner.config.settings import Topic, setting

CropAspect = Literal["square", "preserve", "closest", "random"]
CropStyle = Literal["random", "center", "corner", "face"]

SIZES_FROM_HEADERS = "sizes are read from the pictures' own headers, which no table can contradict"

_AWS = {"type": ("aws",)}
_CSV = {"type": ("csv",)}
_HUB = {"type": ("huggingface",)}


class TableConfig(Topic):
    """A parquet or JSON Lines table that holds the captions of a data set's pictures."""

    path: Path = setting(..., "The table, looked for as it stands and in the data set's folder.")
    filename_column: str = setting(
        "filename", "Column with each picture's path below the data set's folder, or its name."
    )
    caption_column: str = setting("caption", "Column with the caption, or with a list of captions to draw from.")
    fallback_caption_column: str | None = setting(None, "Column that stands in where the first one is empty.")
    width_column: str | None = setting(None, "Column with the width.", unread=SIZES_FROM_HEADERS)
    height_column: str | None = setting(None, "Column with the height.", unread=SIZES_FROM_HEADERS)
    identifier_includes_extension: bool = setting(False, "File names in the table end in the picture's suffix.")


class HubColumns(Topic):
    """Columns of a data set of the hub, in a block of their own. They stand in for the data set's keys of that name."""

    image_column: str | None = setting(None, "Column with the picture.")
    caption_column: str | list[str] | None = setting(None, "Column, or columns to draw from, with the caption.")
    fallback_caption_column: str | None = setting(None, "Column that stands in where the others are empty.")


class DatasetConfig(Topic):
    """Pictures to train on or to evaluate with. Defaults of the run's configuration are filled in before validation."""

    id: str = setting(
        ..., "Name of the data set, unique in the file, without slashes.", min_length=1, pattern=r"^[^/\\]+$"
    )
    type: Literal["local", "aws", "csv", "huggingface"] = setting(
        "local",
        "Where the pictures are: in a folder, in S3-compatible storage, at the addresses of a CSV file, or in a data "
        "set of the Hugging Face Hub. What is not local is copied to a folder first.",
    )
    dataset_type: Literal["image", "eval"] = setting(
        "image", "Train on the pictures (image) or evaluate with them (eval)."
    )
    disabled: bool = setting(False, "Leave the entry out.", aliases=("disable",))
    instance_data_dir: Path | None = setting(
        None, "Folder of the pictures, searched with its sub-folders.", needs={"type": ("local",)}
    )
    aws_bucket_name: str | None = setting(None, "Bucket.", needs=_AWS)
    aws_data_prefix: str = setting("", "Folder in the bucket.", needs=_AWS)
    aws_endpoint_url: str | None = setting(None, "Address of the storage, where it is not Amazon's.", needs=_AWS)
    aws_region_name: str | None = setting(None, "Region.", needs=_AWS)
    aws_access_key_id: str | None = setting(
        None, "Access key; taken from the environment or AWS' own files if not given.", needs=_AWS
    )
    aws_secret_access_key: str | None = setting(
        None, "Secret of the key; better written as {env:NAME} than here.", needs=_AWS
    )
    csv_file: Path | None = setting(None, "CSV file with a header line.", needs=_CSV)
    csv_url_column: str = setting("url", "Column with the address, or the path, of each picture.", needs=_CSV)
    csv_caption_column: str = setting("caption", "Column with the caption.", needs=_CSV)
    csv_cache_dir: Path | None = setting(
        None, "Folder that pictures are copied to; a folder below cache_dir if not given.", needs=_CSV
    )
    dataset_name: str | None = setting(None, "Name on the hub, or a local folder.", needs=_HUB)
    dataset_config: str | None = setting(None, "Configuration of the hub's data set, if it has several.", needs=_HUB)
    split: str = setting("train", "Split.", needs=_HUB)
    revision: str | None = setting(None, "Branch, tag or commit.", needs=_HUB)
    image_column: str = setting("image", "Column with the picture.", needs=_HUB)
    caption_column: str | list[str] = setting(
        "caption", "Column, or columns to draw from, with the caption; dots lead into nested ones.", needs=_HUB
    )
    fallback_caption_column: str | None = setting(None, "Column that stands in where the others are empty.", needs=_HUB)
    cache_dir: Path | None = setting(
        None,
        "Folder that pictures are copied to; a folder below the run's cache_dir if not given.",
        needs={"type": ("aws", "huggingface")},
    )
    num_proc: int | None = setting(None, "Processes that filter rows.", ge=1, needs=_HUB, unread="no rows are filtered")
    streaming: bool = setting(False, "Read rows one by one.", needs=_HUB, unread="planning needs every row")
    huggingface: HubColumns | None = setting(
        None,
        "The columns above in a block of their own: caption_column, fallback_caption_column, image_column.",
        needs=_HUB,
    )
    parquet: TableConfig | None = setting(None, "The table of captions.", needs={"caption_strategy": ("parquet",)})
    cache_dir_vae: Path | None = setting(None, "Folder of the latents; a folder below cache_dir if not given.")
    caption_strategy: CaptionStrategy = setting("filename", "Where captions come from.")
    instance_prompt: str | list[str] | None = setting(
        None, "Caption, or captions to draw from, of the strategy instanceprompt."
    )
    prepend_instance_prompt: bool = setting(
        False, "Put instance_prompt before every caption.", needs={"instance_prompt": (True,)}
    )
    only_instance_prompt: bool = setting(
        False, "Use instance_prompt instead of every caption.", needs={"instance_prompt": (True,)}
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
    minimum_aspect_ratio: float | None = setting(None, "Leave out pictures whose width / height is below this.", gt=0)
    maximum_aspect_ratio: float | None = setting(None, "Leave out pictures whose width / height is above this.", gt=0)
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
        False,
        "Keep what the base model does with these pictures: the target is its own prediction.",
        aliases=("is_regularization_data",),
    )
    conditioning_data: str | None = setting(
        None, "Id of the entry that holds a mask for each picture: white is learnt, black is ignored."
    )
    repeats: int = setting(0, "Extra passes over each picture per epoch.", ge=0)
    probability: float = setting(1.0, "Weight with which the data set is drawn from, beside the others'.", ge=0)
    train_batch_size: int | None = setting(
        None, "Samples per micro-batch of this data set; the run's if not given.", unit="samples", ge=1
    )
    vae_cache_ondemand: bool | None = setting(None, "Encode pictures when training first needs them.")
    vae_cache_disable: bool | None = setting(None, "Keep no latents on the disk.")
    vae_cache_clear_each_epoch: bool = setting(
        False,
        "Draw random crops anew in every epoch and replace the latents.",
        needs={"crop": (True,), "crop_style": ("random",)},
    )
    metadata_backend: Literal["discovery", "parquet", "huggingface"] = setting(
        "discovery",
        "How sizes are found.",
        unread={"parquet": SIZES_FROM_HEADERS, "huggingface": SIZES_FROM_HEADERS},
    )
    skip_file_discovery: SkippedStages = setting(
        (), "Stages that do not look for new files: vae, aspect, metadata, text.", unread=NOTHING_TO_SKIP
    )
    preserve_data_backend_cache: bool = setting(
        False, "Keep the list of files from one start to the next.", unread="skip_file_discovery aspect does this"
    )
    hash_filenames: bool = setting(
        True, "Name cached files by hash.", unread="entries of the caches are always named by hash"
    )

    @field_validator("crop_style", mode="before")
    @classmethod
    def _centre(cls, value: object) -> object:
        return "center" if value == "centre" else value

    _resolution_type = field_validator("resolution_type", mode="before")(staticmethod(normalise_resolution_type))
    _caption_strategy = field_validator("caption_strategy", mode="before")(staticmethod(normalise_caption_strategy))

    @model_validator(mode="after")
    def _consistent(self) -> DatasetConfig:
        required = {
            "local": "instance_data_dir",
            "aws": "aws_bucket_name",
            "csv": "csv_file",
            "huggingface": "dataset_name",
        }
        if getattr(self, required[self.type]) is None:
            raise ValueError(f"type {self.type} needs {required[self.type]}")
        if self.caption_strategy == "parquet" and self.parquet is None:
            raise ValueError('caption_strategy parquet needs a block "parquet" with a path')
        if self.caption_strategy in ("csv", "huggingface") and self.type != self.caption_strategy:
            raise ValueError(f"caption_strategy {self.caption_strategy} needs type {self.caption_strategy}")
        if (
            self.type == "huggingface"
            and self.caption_strategy in ("filename", "textfile")
            and not self.only_instance_prompt
        ):
            raise ValueError(
                f"caption_strategy {self.caption_strategy} cannot serve type huggingface, whose pictures have no "
                "files; use huggingface, instanceprompt or parquet"
            )
        if (self.prepend_instance_prompt or self.only_instance_prompt) and not self.instance_prompt:
            raise ValueError("prepend_instance_prompt and only_instance_prompt need an instance_prompt")
        if self.caption_strategy == "instanceprompt" and not self.instance_prompt:
            raise ValueError("caption_strategy instanceprompt needs an instance_prompt")
        if self.crop and self.crop_aspect in ("closest", "random") and not self.crop_aspect_buckets:
            raise ValueError(f"crop_aspect {self.crop_aspect} needs crop_aspect_buckets, such as [1.0, 0.75, 1.33]")
        if self.crop_aspect_buckets and any(ratio <= 0 for ratio in self.crop_aspect_buckets):
            raise ValueError("crop_aspect_buckets must all be greater than 0")
        if self.maximum_image_size and not self.target_downsample_size:
            raise ValueError("maximum_image_size needs a target_downsample_size")
        return self

    def hub_column(self, key: str) -> Any:
        """Return a column's name, such as that of image_column, from the block "huggingface" if it is there."""
        given = getattr(self.huggingface, key) if self.huggingface else None
        return getattr(self, key) if given is None else given

    @property
    def redraws_crops(self) -> bool:
        """Whether crops are drawn anew in every epoch."""
        return self.vae_cache_clear_each_epoch and self.crop and self.crop_style == "random"

    @property
    def folder(self) -> Path:
        """The folder of the pictures. A data set that is not local has one once its pictures were copied."""
        assert self.instance_data_dir is not None, f"the pictures of {self.id} are not at hand yet"
        return self.instance_data_dir


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
