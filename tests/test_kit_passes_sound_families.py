"""The conformance kit passes a sound family, with every proof that it has."""

from __future__ import annotations

import ast

import pytest

from tuner.testing.plugin import KIT

pytest_plugins = ["pytester"]


@pytest.fixture
def proofs():
    """The names of all proofs of the kit."""
    return {
        item.name
        for file in KIT.glob("test_*.py")
        for item in ast.parse(file.read_text()).body
        if isinstance(item, ast.FunctionDef) and item.name.startswith("test_")
    }


@pytest.mark.long
def test_a_sound_family_passes_everything(kit, proofs):
    outcome = kit.run("sana")
    assert not outcome.failed
    assert not outcome.skipped
    assert outcome.passed == proofs


def test_proofs_of_the_facts_need_no_twin(kit, tmp_path):
    outcome = kit.run("sana", "-k", "test_facts", twin=tmp_path / "none")
    assert len(outcome.passed) == 9
    assert not outcome.skipped
    assert not outcome.failed
    assert not (tmp_path / "none").exists()
