"""Which font the contact sheet writes in: one that has the letters, never boxes in their place."""

import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from tuner.tracking.gallery import lettering as module
from tuner.tracking.gallery.lettering import Lettering, system_fonts
from tuner.tracking.gallery.rounds import Picture, Round
from tuner.tracking.gallery.sheet import write_sheet

CAT = "\u732b"
SIZE = 13


def write_font(path: Path, letters: str) -> Path:
    """A bitmap font whose letters are black squares, and which draws a frame in the place of others."""
    rows = {0: ["FFF8"] + ["8008"] * (SIZE - 2) + ["FFF8"], **{ord(letter): ["FFF8"] * SIZE for letter in letters}}
    glyphs = [
        f"STARTCHAR U+{code:04X}\nENCODING {code}\nSWIDTH 1000 0\nDWIDTH {SIZE} 0\nBBX {SIZE} {SIZE} 0 0\nBITMAP\n"
        + "\n".join(bits)
        + "\nENDCHAR\n"
        for code, bits in rows.items()
    ]
    path.write_text(
        f"STARTFONT 2.1\nFONT -test-squares-medium-r-normal--{SIZE}-130-72-72-c-130-iso10646-1\nSIZE {SIZE} 72 72\n"
        f"FONTBOUNDINGBOX {SIZE} {SIZE} 0 0\nSTARTPROPERTIES 5\nPIXEL_SIZE {SIZE}\nFONT_ASCENT {SIZE}\n"
        f'FONT_DESCENT 0\nDEFAULT_CHAR 0\nCHARSET_REGISTRY "ISO10646"\nENDPROPERTIES\nCHARS {len(glyphs)}\n'
        + "".join(glyphs)
        + "ENDFONT\n"
    )
    return path


def finder(*fonts):
    """Stands for the system's fonts; keeps what it was asked for."""
    asked = []

    def find(letters, size):
        asked.append((letters, size))
        return fonts

    return find, asked


def test_usual_letters_ask_nobody():
    find, asked = finder()
    for text in ("a cat, 50 % (off) <b> #1", ""):
        assert Lettering(SIZE, find).choose(text)[0] == text
    assert asked == []


def test_a_font_of_the_system_takes_over_where_it_has_the_letters(tmp_path):
    squares = ImageFont.truetype(write_font(tmp_path / "squares.bdf", CAT + "a "), SIZE)
    find, asked = finder(squares)
    chooser = Lettering(SIZE, find)
    assert chooser.choose(f"{CAT} a") == (f"{CAT} a", squares)
    assert asked == [(CAT, SIZE)]
    # Here it lacks more than Pillow's own font does.
    text, font = chooser.choose(f"a photograph of {CAT}")
    assert (text, font) == ("a photograph of ?", chooser.usual)
    assert chooser.choose(CAT) == (CAT, squares)
    assert asked == [(CAT, SIZE)] * 2  # what is known is not looked for again


def test_accents_are_lost_where_no_font_has_them():
    find, _ = finder()
    text = "\u017dlu\u0165ou\u010dk\u00fd k\u016f\u0148 \u2013 \u201eja"
    assert Lettering(SIZE, find).choose(text)[0] == 'Zlutoucky kun - "ja'


def test_a_text_that_no_font_has_is_not_drawn():
    find, _ = finder()
    assert Lettering(SIZE, find).choose(CAT * 3) is None
    assert Lettering(SIZE, find).choose(f"{CAT}{CAT} cat")[0] == "?? cat"
    assert Lettering(SIZE, find).choose("\U0001f98a" * 500) is None


def test_what_is_no_letter_leaves_no_trace():
    find, asked = finder()
    assert Lettering(SIZE, find).choose("a\u200d\ufe0f\u202e b\n\tc\x00 \udc80")[0] == "a b c"
    assert asked == []


def test_fontconfig_and_its_absence(tmp_path, monkeypatch):
    folder, shell = tmp_path / "bin", shutil.which("sh")
    folder.mkdir()
    font = write_font(tmp_path / "squares.bdf", CAT)
    program = folder / "fc-match"
    program.write_text(f"#!{shell}\nprintf '0 %s' '{font}'\n")
    program.chmod(0o755)
    module._proposed.cache_clear()
    monkeypatch.setenv("PATH", str(folder))
    (found,) = system_fonts(CAT, SIZE)
    assert found.getmask(CAT).size == (SIZE, SIZE)
    program.write_text(f"#!{shell}\nexit 1\n")
    module._proposed.cache_clear()
    monkeypatch.setattr(module, "_ELSEWHERE", (str(font), "no such font.ttf"))
    assert [each.getmask(CAT).size for each in system_fonts(CAT, SIZE)] == [(SIZE, SIZE)]
    program.unlink()
    module._proposed.cache_clear()
    assert len(system_fonts(CAT, SIZE)) == 1
    module._proposed.cache_clear()


def dark(path: Path) -> int:
    """Dark pixels of a sheet below its title."""
    with Image.open(path) as sheet:
        grey = sheet.convert("L").crop((0, 44, sheet.width, 64))
    return sum(value < 100 for value in grey.tobytes())


@pytest.mark.parametrize(("letters", "expected"), [(CAT, True), ("x", False)])
def test_the_sheet_is_written_in_it(tmp_path, monkeypatch, letters, expected):
    font = ImageFont.truetype(write_font(tmp_path / "squares.bdf", letters), SIZE)
    monkeypatch.setattr(module, "system_fonts", lambda wanted, size: [font])
    Image.new("RGB", (400, 100), (255, 255, 255)).save(tmp_path / "p.png")
    shown = Round(7, "live", {CAT * 4: [Picture("p.png", 400, 100)]}, {CAT * 4: CAT * 4})
    found = dark(write_sheet(shown, None, tmp_path))
    squares = 4 * SIZE * SIZE
    assert (found == pytest.approx(squares, rel=0.1)) == expected
    assert found > 50  # at least the number of the prompt
