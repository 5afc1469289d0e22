"""Reading pictures: their size from the header alone, and their pixels as they are shown."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from tuner.data.sample import Geometry
from tuner.errors import DatasetError

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Suffixes, in lower case, of the files that are taken for pictures."""

# Pillow goes by content, not by suffix. Naming the formats keeps an EPS called .png away from Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that undoes it. From 5 on, width and height change places."""

_DAMAGE = (SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
"""What Pillow raises, besides `OSError`, about bytes that make no sense."""


class UnreadableImage(DatasetError):  # noqa: N818 - the name says what the file is
    """A file that cannot be read as a picture.

    Attributes:
        reason: Why; equal for all files with the same fault.
        lasting: Whether the fault lies in the file's content, so that reading it again is no use.
    """

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


def read_size(path: Path | str) -> tuple[int, int]:
    """Return (width, height) in pixels as shown, EXIF orientation applied; decodes no pixels.

    Raises:
        UnreadableImage: The file is missing, empty, locked away, no picture, too large or damaged in its header.
    """
    with _explained(path), Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def load_pixels(path: Path | str, geometry: Geometry) -> Tensor:
    """Read a picture as training sees it: `load_rgb`, as the codec takes it.

    Returns:
        float32 tensor of shape (3, H, W) in [-1, 1].

    Raises:
        UnreadableImage: As `load_rgb`.
    """
    return to_pixels(load_rgb(path, geometry))


def load_rgb(path: Path | str, geometry: Geometry) -> NDArray[np.uint8]:
    """Read, resize and crop a picture; needs no torch, so that a small process can do it.

    Orientation is applied, transparency is laid over white and every colour mode becomes RGB, before the picture
    is resized (LANCZOS) and cropped. Of an animation the first frame counts.

    Returns:
        Array of shape (H, W, 3).

    Raises:
        UnreadableImage: As `read_size`, or the pixels are cut off, damaged or of a kind that has no RGB meaning.
    """
    with _explained(path), Image.open(path, formats=_FORMATS) as image:
        orientation = _orientation(image)
        image.load()
        rgb = _to_rgb(image)
    if orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])
    for size in filter(None, (geometry.downsample, geometry.resize)):
        if rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.LANCZOS)
    return np.array(rgb.crop(geometry.crop), dtype=np.uint8)


def to_pixels(rgb_HWC: NDArray[np.uint8]) -> Tensor:
    """Return RGB bytes as a float32 tensor of shape (3, H, W) in [-1, 1]."""
    import torch

    pixels = torch.from_numpy(rgb_HWC).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.div_(127.5).sub_(1.0)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation (1 to 8) that is still to be applied. To be asked before pixels are loaded."""
    if image.format == "TIFF":  # Pillow turns TIFF pictures itself
        return 1
    if image.format == "PNG" and not any("exif" in str(name) for name in image.info):
        return 1  # without EXIF ahead of its pixels, Pillow would decode the whole picture to look behind them
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:  # unreadable EXIF spoils no pixels
        return 1
    return value if value in _TRANSPOSE else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage("has floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them to 8
        grey = np.asarray(image)
        shown = np.rint((grey / 257.0).clip(0, 255)).astype(np.uint8)
        if isinstance(transparent := image.info.get("transparency"), int):
            shown[grey == transparent] = 255
        return Image.fromarray(shown).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    """Turn whatever Pillow raises about a file into an `UnreadableImage`."""
    try:
        yield
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImage(f"claims to have more than {limit} pixels, as decompression bombs do") from error
    except UnidentifiedImageError as error:
        if Path(path).stat().st_size == 0:
            raise UnreadableImage("is empty (0 bytes)") from error
        known = ", ".join(_FORMATS)
        raise UnreadableImage(f"is no picture in a format that is read ({known}), or its header is damaged") from error
    except OSError as error:
        if error.errno is not None:  # from the operating system: may be gone the next time
            raise UnreadableImage(f"cannot be opened: {error.strerror}", lasting=False) from error
        raise UnreadableImage(_reason_of_damage(error)) from error
    except _DAMAGE as error:
        raise UnreadableImage(_reason_of_damage(error)) from error


def _reason_of_damage(error: Exception) -> str:
    text = str(error).lower()
    if "truncated" in text or "end of" in text or isinstance(error, EOFError):
        return "is truncated: its end is missing"
    return f"is damaged ({type(error).__name__}: {error})"
