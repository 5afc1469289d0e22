"""What a fetched file is."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tuner.data.images import IMAGE_SUFFIXES, read_size

_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
}
"""Pillow's name of a format -> suffix of its files."""


def picture_suffix(path: Path) -> str:
    """Return the suffix that fits a picture's content.

    Raises:
        UnreadableImage: It is none that can be read.
    """
    read_size(path)
    with Image.open(path) as image:
        return _SUFFIXES[str(image.format)]


def has_picture_suffix(name: str) -> bool:
    """Whether `name` ends like a picture's."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES
