"""Masks: which parts of a picture are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tuner.data.headers import read_headers
from tuner.data.images import load_pixels
from tuner.data.index import FileIndex, HeaderRow
from tuner.data.sample import Geometry
from tuner.data.scan import list_images

if TYPE_CHECKING:
    from torch import Tensor

_ASPECT_TOLERANCE = 0.01


def load_mask(path: Path, geometry: Geometry, cells: tuple[int, int]) -> Tensor:
    """Read a mask as training uses it: resized and cropped like its picture, then averaged over each latent cell.

    Args:
        path: The file; white is 1, black is 0, colours count by their mean.
        geometry: That of the picture.
        cells: (height, width) of the latent.

    Returns:
        float32 tensor of shape (1, height, width) in [0, 1].

    Raises:
        UnreadableImage: The file cannot be read.
    """
    import torch

    pixels_HW = load_pixels(path, geometry).add(1.0).div(2.0).mean(dim=0, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(pixels_HW, cells)


class MissingMask(Exception):  # noqa: N818 - planning catches it; it never reaches a user
    """A picture without a usable mask.

    Attributes:
        reason: What is wrong.
        remedy: What to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class MaskFolder:
    """The masks of a data set, found by the relative path of the picture without its suffix."""

    def __init__(self, folder: Path, index: FileIndex) -> None:
        listing = list_images(folder)
        headers = read_headers(folder, listing.images, index)
        self._folder = folder
        self._masks = {
            Path(item.relative).with_suffix("").as_posix(): header
            for item, header in zip(listing.images, headers, strict=True)
        }

    def mask_of(self, relative: str, size: tuple[int, int]) -> Path:
        """Return the mask of the picture at `relative` below its folder, (width, height) being the picture's size.

        Raises:
            MissingMask: There is none, it cannot be read, or it has another shape.
        """
        stem = Path(relative).with_suffix("").as_posix()
        header: HeaderRow | None = self._masks.get(stem)
        if header is None:
            raise MissingMask(f"has no mask {stem}.* in {self._folder}", "add a mask; all white means no mask")
        if header.error:
            raise MissingMask(f"has a mask that {header.error}", "repair or replace the mask")
        aspect, wanted = header.width / header.height, size[0] / size[1]
        if abs(aspect / wanted - 1.0) > _ASPECT_TOLERANCE:
            shapes = f"{header.width}x{header.height} for a picture of {size[0]}x{size[1]}"
            raise MissingMask(f"has a mask of another shape: {shapes}", "make the mask as large as the picture")
        return Path(header.path)
