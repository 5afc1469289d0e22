"""Fixtures of the conformance kit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.plugins import load_family
from tuner.testing.family import FamilyUnderTest


@pytest.fixture(scope="session")
def family(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> FamilyUnderTest:
    """The family that `--tuner-family` names, with a twin that is written once per session, if any proof needs it."""
    name = pytestconfig.getoption("tuner_family")
    folder: Path = pytestconfig.getoption("tuner_twin") or tmp_path_factory.mktemp("tuner") / "twin"
    return FamilyUnderTest(name, load_family(name), folder.absolute())
