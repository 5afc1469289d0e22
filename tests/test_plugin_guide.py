"""The plugin guide shows files of packages that are installed and tested, as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "plugin-guide.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:python|toml)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
THIRD_PARTY = ROOT / "tests" / "third_party"
FAMILY = THIRD_PARTY / "tuner-model-lumina2"
EXTENSIONS = (THIRD_PARTY / "tuner-bell/src/tuner_bell", THIRD_PARTY / "tuner-min-snr/src/tuner_min_snr")


def _pieces(text: str) -> list[str]:
    """Return what stands between double blank lines: functions, classes and the head of a file."""
    return text.strip().split("\n\n\n")


def test_the_guide_has_no_other_code():
    assert len(BLOCKS) == GUIDE.count("```") / 2 == 14


@pytest.mark.parametrize("block", BLOCKS)
def test_every_code_block_is_quoted_from_a_file(block):
    files = [path.read_text(encoding="utf-8") for path in THIRD_PARTY.rglob("*") if path.suffix in {".py", ".toml"}]
    assert any(set(_pieces(block)) <= set(_pieces(text)) or block in text for text in files)


@pytest.mark.parametrize("path", [FAMILY / "pyproject.toml", FAMILY / "src/tuner_lumina2/twin.py"])
def test_these_files_are_shown_whole(path):
    assert path.read_text(encoding="utf-8") in BLOCKS


def test_the_hooks_are_shown_completely():
    module = _pieces((FAMILY / "src/tuner_lumina2/plugin.py").read_text(encoding="utf-8"))
    shown = [piece for block in BLOCKS for piece in _pieces(block)]
    assert [piece for piece in module if shown.count(piece) != 1] == []


@pytest.mark.parametrize("package", EXTENSIONS)
def test_the_extensions_are_shown_completely(package):
    assert (package / "__init__.py").read_text(encoding="utf-8") in BLOCKS


def test_the_listed_files_are_those_of_the_package():
    listed = re.findall(r"^    (src/tuner_lumina2/\S+)", GUIDE, re.MULTILINE)
    actual = {path.relative_to(FAMILY).as_posix() for path in (FAMILY / "src").rglob("*.py")}
    assert set(listed) == actual
