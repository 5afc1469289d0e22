"""The twin of a family under test: written once, when it is needed, and whole or not at all."""

from __future__ import annotations

import pytest

from tuner import hookimpl
from tuner.plugins import Family, FamilyEntry
from tuner.testing.family import FamilyUnderTest
from tuner.testing.minimal import minimal_facts


class Toy:
    """A family that can do nothing but write a twin, and fails at that the first time."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def make_twin(self, folder):
        self.calls += 1
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        if self.calls == 1:
            raise ValueError("half way")
        return folder


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def subject(toy, tmp_path):
    family = Family(FamilyEntry("toy", "toy", "toy", "1"), toy, minimal_facts())
    return FamilyUnderTest("toy", family, tmp_path / "twin")


def test_half_a_twin_is_not_left_behind(subject, toy):
    with pytest.raises(ValueError, match="half way"):
        _ = subject.twin
    assert not subject.folder.exists()
    assert (subject.twin / "config.json").is_file()
    assert subject.twin == subject.folder
    assert toy.calls == 2


def test_a_twin_that_is_there_is_used(subject, toy):
    subject.folder.mkdir()
    assert subject.twin == subject.folder
    assert toy.calls == 0
