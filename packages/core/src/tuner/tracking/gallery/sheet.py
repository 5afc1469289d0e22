"""The contact sheet: all pictures of a round in one file, the base model's beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tuner.tracking.gallery.files import write_whole
from tuner.tracking.gallery.lettering import Lettering
from tuner.tracking.gallery.rounds import Picture, Round

SHEETS = "contact_sheets"
"""Folder of the contact sheets in the output folder."""

TILE = 384
"""Longest side of a picture in the sheet, in pixels."""

MOST_PIXELS = 40_000_000
"""Pixels that a sheet's pictures have at most; where there are many, they are drawn smaller."""

_GAP, _MARGIN, _LINE = 8, 24, 20
_PAPER, _INK, _FAINT = (250, 250, 248), (28, 30, 34), (105, 110, 118)

_UNREADABLE = "(no font here has the letters of this prompt)"


@dataclass(frozen=True)
class _Cell:
    """A prompt: its caption, and its pictures with what stands below each."""

    nickname: str
    prompt: str
    tiles: list[tuple[Picture, str]]


def sheet_name(step: int, label: str) -> str:
    """Return the path of a round's contact sheet, relative to the output folder."""
    return f"{SHEETS}/step_{step}_{'_'.join(label.split())}.jpg"


def write_sheet(shown: Round, base: Round | None, folder: Path) -> Path:
    """Write the contact sheet of a round.

    Args:
        shown: The round.
        base: The base model's round; its pictures come first, each beside one of the same size.
        folder: The output folder.

    Raises:
        OSError: A picture cannot be read, or the sheet not be written.
    """
    target = folder / sheet_name(shown.step, shown.label)
    target.parent.mkdir(exist_ok=True)
    sheet = _Sheet(_cells(shown, base), f"step {shown.step}, {shown.label}").draw(folder)
    write_whole(target, lambda scratch: sheet.save(scratch, "JPEG", quality=90, subsampling=0))
    return target


def _cells(shown: Round, base: Round | None) -> list[_Cell]:
    cells = []
    for nickname, pictures in shown.pictures.items():
        before = base.pictures.get(nickname, []) if base and base.key != shown.key else []
        tiles: list[tuple[Picture, str]] = []
        for picture in pictures:
            size = f"{picture.width}x{picture.height}"
            same = [old for old in before if (old.width, old.height) == (picture.width, picture.height)]
            tiles += [(old, f"base model, {size}") for old in same[:1]]
            tiles.append((picture, f"{shown.label}, {size}"))
        if tiles:
            cells.append(_Cell(nickname, shown.prompts.get(nickname, ""), tiles))
    return cells


class _Sheet:
    """Lays cells of equal size out in a grid that is about square, and draws them."""

    def __init__(self, cells: Sequence[_Cell], title: str) -> None:
        self._cells, self._title = cells, title
        most = max((len(cell.tiles) for cell in cells), default=1)
        self._side = min(TILE, max(32, math.isqrt(MOST_PIXELS // max(1, most * len(cells)))))
        sizes = [[self._fitted(picture) for picture, _ in cell.tiles] for cell in cells]
        self._width = max((sum(width + _GAP for width, _ in tiles) for tiles in sizes), default=0)
        self._height = max((height for tiles in sizes for _, height in tiles), default=0) + 3 * _LINE + 2 * _GAP
        square = math.sqrt(max(1, len(cells)) * self._height / max(1, self._width))
        self._columns = max(1, min(len(cells), round(square)))
        self._lettering = Lettering(13)

    def draw(self, folder: Path) -> Image.Image:
        """Return the sheet."""
        rows = math.ceil(len(self._cells) / self._columns)
        width = max(320, self._columns * (self._width + _MARGIN) + _MARGIN)
        sheet = Image.new("RGB", (width, rows * self._height + 2 * _MARGIN + _LINE), _PAPER)
        pen = ImageDraw.Draw(sheet)
        pen.text((_MARGIN, _MARGIN - _GAP), self._title, _INK, ImageFont.load_default(18))
        for number in range(len(self._cells)):
            row, column = divmod(number, self._columns)
            corner = _MARGIN + column * (self._width + _MARGIN), _MARGIN + _LINE + _GAP + row * self._height
            self._draw_cell(sheet, pen, number, corner, folder)
        return sheet

    def _draw_cell(
        self, sheet: Image.Image, pen: ImageDraw.ImageDraw, number: int, corner: tuple[int, int], folder: Path
    ) -> None:
        cell, (left, top) = self._cells[number], corner
        self._write(pen, (left, top), cell.nickname, self._width, _INK, f"prompt {number + 1}")
        self._write(pen, (left, top + _LINE - 2), cell.prompt, self._width, _FAINT, _UNREADABLE)
        for picture, caption in cell.tiles:
            width, height = self._fitted(picture)
            with Image.open(folder / picture.file) as opened:
                tile = opened.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left, top + 2 * _LINE))
            self._write(pen, (left, top + 2 * _LINE + height + 2), caption, width, _FAINT)
            left += width + _GAP

    def _fitted(self, picture: Picture) -> tuple[int, int]:
        scale = min(1.0, self._side / max(picture.width, picture.height))
        return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))

    def _write(
        self,
        pen: ImageDraw.ImageDraw,
        at: tuple[int, int],
        text: str,
        room: int,
        color: tuple[int, int, int],
        instead: str = "",
    ) -> None:
        """Write as much of a text as fits into a line of `room` pixels; `instead` where no font has its letters."""
        text, font = self._lettering.choose(text[:500]) or (instead, self._lettering.usual)
        if pen.textlength(text, font) > room:
            while text and pen.textlength(text + "...", font) > room:
                text = text[:-1]
            text += "..."
        pen.text(at, text, color, font)
