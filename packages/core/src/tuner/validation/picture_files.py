"""Files of pictures: written whole or not at all, and put side by side where they can be compared."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

GAP = 5
"""Pixels between pictures side by side."""

_KEY = "sampled as"
"""Text field of a file that holds a hash of what its picture shows besides the model."""

_BACKGROUND = (255, 255, 255)
_LABEL, _INK = (0, 0, 0), (255, 255, 255)


def write_picture(picture: Image.Image, path: Path, sampled_as: str) -> Path:
    """Write a picture beside its place, rename it, and return the path.

    Args:
        picture: The picture.
        path: Its file, a PNG; what was there is replaced.
        sampled_as: What it shows besides the model: prompt, settings and seed. The file holds a hash of it.
    """
    text = PngImagePlugin.PngInfo()
    text.add_text(_KEY, hashlib.sha256(sampled_as.encode()).hexdigest())
    _write(picture, path, text)
    return path


def comparable(one: Path, other: Path) -> bool:
    """Whether two files hold pictures of one size that differ by the model alone; false if one is absent."""
    return _shown_by(one) is not None and _shown_by(one) == _shown_by(other)


def write_side_by_side(columns: Sequence[tuple[str, Path]], path: Path) -> Path:
    """Put pictures of one size beside each other, from left to right, and return the path.

    Args:
        columns: (label, file) of each. A single one has nothing to be told from and gets no label.
        path: The file that is written.
    """
    pictures = []
    for _, file in columns:
        with Image.open(file) as opened:
            pictures.append(opened.convert("RGB"))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), _BACKGROUND)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * (width + GAP), 0))
        if len(pictures) > 1:
            _label(sheet, columns[number][0], number * (width + GAP))
    _write(sheet, path)
    return path


def _label(sheet: Image.Image, text: str, left: int) -> None:
    """Write into the upper left corner of a column."""
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(max(10, sheet.height // 40))
    box = draw.textbbox((left + 3, 1), text, font=font)
    draw.rectangle((left, 0, int(box[2]) + 3, int(box[3]) + 2), fill=_LABEL)
    draw.text((left + 3, 1), text, font=font, fill=_INK)


def _write(picture: Image.Image, path: Path, text: PngImagePlugin.PngInfo | None = None) -> None:
    aside = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        picture.save(aside, format="PNG", pnginfo=text)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _shown_by(path: Path) -> tuple[tuple[int, int], str] | None:
    """Return a picture's size and the hash in its file; None without either."""
    try:
        with Image.open(path) as picture:
            shown = picture.info.get(_KEY)
            return (picture.size, shown) if isinstance(shown, str) else None
    except OSError:
        return None
