"""A picture that takes part in training, and what happens to it before it is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Geometry:
    """Resize, then crop; all in pixels of the picture as shown (EXIF orientation applied).

    Attributes:
        resize: (width, height) after resizing; covers the crop.
        crop: (left, top, right, bottom) within the resized picture.
        downsample: (width, height) of an intermediate reduction before `resize`, or None.
    """

    resize: tuple[int, int]
    crop: tuple[int, int, int, int]
    downsample: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the result."""
        left, top, right, bottom = self.crop
        return right - left, bottom - top


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of one data set. Plans hold one for every picture, so it is kept small.

    Attributes:
        key: "dataset_id/relative/path.png": names the sample in draws, logs and errors.
        dataset: Id of the data set.
        file: The file's path.
        captions: Captions to draw from, at least one.
        geometry: How the picture is resized and cropped.
        mask: The picture's mask, treated with the same geometry, or None.
    """

    key: str
    dataset: str
    file: str
    captions: tuple[str, ...]
    geometry: Geometry
    mask: Path | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file)
