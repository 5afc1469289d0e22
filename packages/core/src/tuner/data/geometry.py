"""From the size of a picture to how it is resized and cropped. Pure functions of sizes, settings and seed.

Sizes are (width, height) in pixels; aspects are width / height.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tuner.config.data import ResolutionType
from tuner.config.datasets import DatasetConfig
from tuner.data.sample import Geometry, Sample
from tuner.randomness import generator

Size = tuple[int, int]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom)."""

_MEGAPIXEL_EDGES = {0.25: 512.0, 0.5: 768.0, 1.0: 1024.0, 2.0: 1536.0, 4.0: 2048.0}
"""Customary edges of the areas that people name in megapixels."""


@dataclass(frozen=True)
class SizeRules:
    """What bounds the sides of training pictures.

    Attributes:
        alignment: Sides are multiples of this many pixels.
        aspect_rounding: Decimals to which the aspect of a picture is rounded before its bucket is chosen.
        canvas_limit: Largest number of pixels, or None.
        side_limit: Longest side in pixels, or None.
    """

    alignment: int
    aspect_rounding: int
    canvas_limit: int | None = None
    side_limit: int | None = None


def edge_of(value: float, unit: ResolutionType) -> float:
    """Return the edge in pixels that a size stands for: of a square of its area, or the shorter edge.

    Megapixels within 0.05 of a customary size give its customary edge.
    """
    if unit != "area":
        return value
    for area, edge in _MEGAPIXEL_EDGES.items():
        if abs(value - area) <= 0.05 + 1e-9:  # 0.55 - 0.5 is a little more than 0.05 in binary
            return edge
    return 1024.0 * math.sqrt(value)


def round_to(value: float, alignment: int) -> int:
    """Round to the nearest multiple of `alignment`, halves up, at least one."""
    return max(1, math.floor(value / alignment + 0.5)) * alignment


def target_size(aspect: float, edge: float, unit: ResolutionType, alignment: int) -> Size:
    """Return the aligned size of a bucket: `edge`^2 in area, or `edge` along its shorter side."""
    if unit == "pixel":
        width, height = edge * max(aspect, 1.0), edge / min(aspect, 1.0)
    else:
        width, height = edge * math.sqrt(aspect), edge / math.sqrt(aspect)
    return round_to(width, alignment), round_to(height, alignment)


def fit_canvas(size: Size, limit: int | None, alignment: int) -> Size:
    """Shorten sides by whole multiples of `alignment` until `size` has at most `limit` pixels, keeping its aspect."""
    aspect = size[0] / size[1]
    while limit is not None and size[0] * size[1] > limit and size != (alignment, alignment):
        shorter = ((size[0] - alignment, size[1]), (size[0], size[1] - alignment))
        size = min((s for s in shorter if min(s) > 0), key=lambda s: abs(math.log(s[0] / s[1] / aspect)))
    return size


def cover(source: Size, size: Size) -> Size:
    """Return the smallest size of the aspect of `source` that covers `size`."""
    (w, h), (width, height) = source, size
    if width * h >= height * w:
        return width, max(height, (2 * h * width + w) // (2 * w))
    return max(width, (2 * w * height + h) // (2 * h)), height


def reduced(dataset: DatasetConfig, source: Size) -> Size | None:
    """Return the size to which a picture above `maximum_image_size` is reduced before it is cropped, or None.

    Without it a crop keeps all that fits; with it, a window of the reduced picture. What is not cropped is
    resized to its bucket anyway.
    """
    if not (dataset.crop and dataset.maximum_image_size and dataset.target_downsample_size):
        return None
    limit = edge_of(dataset.maximum_image_size, dataset.resolution_type)
    target = edge_of(dataset.target_downsample_size, dataset.resolution_type)
    edge = min(source) if dataset.resolution_type == "pixel" else math.sqrt(source[0] * source[1])
    if edge <= limit or edge <= target:
        return None
    scale = target / edge
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def bucket_size(dataset: DatasetConfig, source: Size, rules: SizeRules, seed: int, key: str) -> Size:
    """Return the size of the bucket of the picture `key`."""
    size = target_size(
        _bucket_aspect(dataset, source, rules, seed, key),
        edge_of(dataset.resolution, dataset.resolution_type),
        dataset.resolution_type,
        rules.alignment,
    )
    if rules.side_limit is not None:
        longest = max(1, rules.side_limit // rules.alignment) * rules.alignment
        size = min(size[0], longest), min(size[1], longest)
    return fit_canvas(size, rules.canvas_limit, rules.alignment)


def picture_geometry(
    dataset: DatasetConfig, source: Size, rules: SizeRules, seed: int, key: str, face: Box | None = None
) -> Geometry:
    """Say how the picture `key`, of size `source` as shown, is resized and cropped.

    Args:
        dataset: Its data set.
        source: (width, height) in pixels.
        rules: What bounds the sides.
        seed: Of drawn aspects and crops.
        key: Names the picture in draws.
        face: What a crop of style `face` is centred on, in pixels of the source; None for the centre.
    """
    size = bucket_size(dataset, source, rules, seed, key)
    resize, downsample = cover(source, size), reduced(dataset, source)
    if downsample is not None:
        if downsample[0] < size[0] or downsample[1] < size[1]:
            downsample = None  # reducing below the bucket only to enlarge again would blur
        else:
            resize = downsample
    surplus = resize[0] - size[0], resize[1] - size[1]
    style = dataset.crop_style if dataset.crop else "center"
    if style == "random":
        corner = _drawn_corner(surplus, seed, 0, key)
    elif style == "face" and face is not None:
        corner = _corner_around(face, source, resize, size)
    else:
        corner = (0, 0) if style == "corner" else (surplus[0] // 2, surplus[1] // 2)
    return Geometry(resize, _window(corner, size), downsample)


def redraws_crops(dataset: DatasetConfig) -> bool:
    """Say whether a data set's crops are drawn anew in every epoch."""
    return dataset.redraws_crops


def geometry_in(sample: Sample, dataset: DatasetConfig, epoch: int, seed: int) -> Geometry:
    """Say how a sample of a plan is cropped in an epoch, where its data set draws crops anew in every epoch.

    In epoch 0, and in other data sets always, it is the plan's own geometry. The offset alone is drawn anew: the
    bucket, which a random crop_aspect drew once for the run, stays, so that batches keep their shape.
    """
    geometry = sample.geometry
    if not redraws_crops(dataset):
        return geometry
    width, height = geometry.size
    surplus = geometry.resize[0] - width, geometry.resize[1] - height
    return replace(geometry, crop=_window(_drawn_corner(surplus, seed, epoch, sample.key), geometry.size))


def draws_geometry(dataset: DatasetConfig) -> bool:
    """Say whether geometry depends on the single picture and not on its size alone."""
    return dataset.crop and (dataset.crop_aspect == "random" or dataset.crop_style in ("random", "face"))


def _bucket_aspect(dataset: DatasetConfig, source: Size, rules: SizeRules, seed: int, key: str) -> float:
    aspect = source[0] / source[1]
    if dataset.crop and dataset.crop_aspect != "preserve":
        choices = dataset.crop_aspect_buckets or [1.0]
        if dataset.crop_aspect == "closest":
            return min(choices, key=lambda choice: abs(math.log(choice / aspect)))
        if dataset.crop_aspect == "random":
            return choices[int(generator(seed, "crop_aspect", 0, key).integers(len(choices)))]
        return 1.0
    return max(round(aspect, rules.aspect_rounding), 10.0**-rules.aspect_rounding)


def _drawn_corner(surplus: Size, seed: int, epoch: int, key: str) -> Size:
    """Draw (left, top) of a crop, given by how much the picture exceeds it."""
    if not any(surplus):
        return 0, 0
    random = generator(seed, "crop", epoch, key)
    return int(random.integers(surplus[0] + 1)), int(random.integers(surplus[1] + 1))


def _corner_around(face: Box, source: Size, resize: Size, size: Size) -> Size:
    """Return (left, top) of the crop of a resized picture whose centre is as near to that of the face as it can be."""

    def start(axis: int) -> int:
        centre = (face[axis] + face[axis + 2]) / 2 * resize[axis] / source[axis]
        return max(0, min(math.floor(centre - size[axis] / 2 + 0.5), resize[axis] - size[axis]))

    return start(0), start(1)


def _window(corner: Size, size: Size) -> Box:
    return corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]
