"""Letters of people's own languages: a font that has those of a text, among Pillow's own and the system's."""

from __future__ import annotations

import subprocess
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_NONCHARACTER = "\U0010ffff"
"""Has a glyph in no font, so it is drawn as what a font draws in the place of letters that it lacks."""

_UNSEEN = {"Cf", "Cs", "Co", "Cn"}
"""Categories of characters that are no letters: format, half of a surrogate pair, private, unassigned."""

_TYPED = str.maketrans("\u201c\u201d\u201e\u2018\u2019\u2013\u2014", '"""\'\'--')
"""Marks of print, as a keyboard has them."""

_UNKNOWN = "?"

_ELSEWHERE = ("msyh.ttc", "malgun.ttf", "segoeui.ttf", "Arial Unicode.ttf")
"""Fonts with many letters that come with systems without fontconfig."""

_SECONDS = 10.0


class Lettering:
    """Chooses fonts of one size.

    Args:
        size: In pixels.
        find: (letters, size) -> fonts that may have them.

    Attributes:
        usual: Pillow's own font, which has those of ASCII and few more.
    """

    def __init__(self, size: int, find: Callable[[str, int], Iterable[Font]] | None = None) -> None:
        self._size = size
        self._find = find or system_fonts
        self.usual: Font = ImageFont.load_default(size)
        self._known = [self.usual]
        self._lacking: dict[tuple[int, str], bool] = {}

    def choose(self, text: str) -> tuple[str, Font] | None:
        """Return a text as it can be drawn in one line, and the font for it.

        Letters that the font lacks lose their accents or become "?". None if more than half of them become that.
        """
        line = " ".join("".join(map(_seen, unicodedata.normalize("NFC", text))).split())
        font, missing = self._best(line)
        if missing:
            found = self._find("".join(missing), self._size)
            self._known += [other for other in found if other not in self._known]
            font, missing = self._best(line)
        instead = {letter: self._plain(font, letter) for letter in missing}
        if 2 * sum(instead.get(letter) == _UNKNOWN for letter in line) > len(line.replace(" ", "")):
            return None
        return "".join(instead.get(letter, letter) for letter in line), font

    def _best(self, line: str) -> tuple[Font, list[str]]:
        """Return the font that has most letters of a line, and those that it lacks; the usual one if it is no worse."""
        return min(((font, self._missing(font, line)) for font in self._known), key=lambda found: len(found[1]))

    def _plain(self, font: Font, letter: str) -> str:
        plain = unicodedata.normalize("NFKD", letter.translate(_TYPED))[0]
        return _UNKNOWN if self._lacks(font, plain) else plain

    def _missing(self, font: Font, line: str) -> list[str]:
        """Return the letters of a line that a font lacks, each once, in their order."""
        return [letter for letter in dict.fromkeys(line) if letter != " " and self._lacks(font, letter)]

    def _lacks(self, font: Font, letter: str) -> bool:
        known = (id(font), letter)
        if known not in self._lacking:
            self._lacking[known] = _drawn(font, letter) == _drawn(font, _NONCHARACTER)
        return self._lacking[known]


def system_fonts(letters: str, size: int) -> list[Font]:
    """Return the fonts that fontconfig proposes for some letters: all of them, the first and the last.

    Where there is no fontconfig, those that other systems come with.

    Args:
        letters: What they should have; whether they do is not checked.
        size: In pixels.
    """
    places = [_proposed(part) for part in dict.fromkeys((letters, letters[0], letters[-1]))]
    wanted = dict.fromkeys(place for place in places if place) or {(name, 0): None for name in _ELSEWHERE}
    return [font for place in wanted if (font := _opened(*place, size))]


@cache
def _proposed(letters: str) -> tuple[str, int] | None:
    """Return (file, number of the face in it) of the font that fontconfig would choose."""
    pattern = ":scalable=true:color=false:charset=" + " ".join(f"{ord(letter):x}" for letter in letters)
    command = ["fc-match", "--format=%{index} %{file}", pattern]
    try:
        told = subprocess.run(command, capture_output=True, check=True, text=True, timeout=_SECONDS).stdout
        number, _, file = told.partition(" ")
        return file, int(number) & 0xFFFF  # the other half names an instance of a variable font
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


@cache
def _opened(file: str, number: int, size: int) -> Font | None:
    try:
        return ImageFont.truetype(file, size, number)
    except (OSError, ValueError):
        return None


def _seen(character: str) -> str:
    """Return what is drawn of a character; of one that controls something that is a space."""
    category = unicodedata.category(character)
    # Selectors choose between forms of the letter before.
    is_unseen = category in _UNSEEN or "\ufe00" <= character <= "\ufe0f"
    return " " if category == "Cc" else "" if is_unseen else character


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
