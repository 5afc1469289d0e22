"""Which pictures a data set's own filters leave out."""

from __future__ import annotations

from typing import NamedTuple

from tuner.config.datasets import DatasetConfig
from tuner.data.geometry import Size, edge_of


class LeftOut(NamedTuple):
    """Why a picture is not trained on.

    Attributes:
        reason: What is wrong; equal for all pictures that a filter leaves out.
        remedy: What to do about it.
    """

    reason: str
    remedy: str


def left_out(dataset: DatasetConfig, source: Size) -> LeftOut | None:
    """Say which filter leaves out a picture of size `source`, as shown; None if it stays."""
    if _too_small(dataset, source):
        return LeftOut(
            f"is smaller than minimum_image_size {dataset.minimum_image_size:g} ({dataset.resolution_type})",
            "lower minimum_image_size (0 keeps all) or use larger pictures",
        )
    aspect = source[0] / source[1]
    least, most = dataset.minimum_aspect_ratio, dataset.maximum_aspect_ratio
    if least is not None and aspect < least:
        reason = f"has an aspect ratio (width / height) below minimum_aspect_ratio {least:g}"
        return LeftOut(reason, "lower minimum_aspect_ratio, or cut such pictures to a wider shape")
    if most is not None and aspect > most:
        reason = f"has an aspect ratio (width / height) above maximum_aspect_ratio {most:g}"
        return LeftOut(reason, "raise maximum_aspect_ratio, or cut such pictures to a narrower shape")
    return None


def describe_filters(dataset: DatasetConfig) -> list[str]:
    """Return the filters that a data set sets, such as "minimum_image_size 512 (pixel_area)"."""
    filters = []
    if dataset.minimum_image_size:
        filters.append(f"minimum_image_size {dataset.minimum_image_size:g} ({dataset.resolution_type})")
    if dataset.minimum_aspect_ratio is not None:
        filters.append(f"minimum_aspect_ratio {dataset.minimum_aspect_ratio:g}")
    if dataset.maximum_aspect_ratio is not None:
        filters.append(f"maximum_aspect_ratio {dataset.maximum_aspect_ratio:g}")
    return filters


def _too_small(dataset: DatasetConfig, source: Size) -> bool:
    if not dataset.minimum_image_size:
        return False
    edge = edge_of(dataset.minimum_image_size, dataset.resolution_type)
    shorter = min(source)
    if dataset.resolution_type == "pixel":
        return shorter < edge
    square = dataset.crop and dataset.crop_aspect == "square"
    return source[0] * source[1] < edge * edge or (square and shorter < edge)
