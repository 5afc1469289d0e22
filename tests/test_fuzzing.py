"""Mutated configurations and data set files: a result or an error that explains itself, never a traceback."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def load_script():
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "scripts" / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


def test_mutated_files_end_in_a_result_or_a_clear_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    endings, faults = load_script().run(600, seed=1, folders=[ROOT / "examples", Path(__file__).parent / "user_files"])
    assert faults == {}
    assert sum(endings.values()) == 600
    # Mutations that broke everything, or nothing, would prove little.
    assert endings["fine"] > 30
    assert endings["ConfigError"] > 300


def test_a_fault_would_be_seen(monkeypatch):
    script = load_script()

    def broken(folder):
        raise KeyError(str(folder))

    monkeypatch.setattr(script, "examine", broken)
    _, faults = script.run(3, seed=1, folders=[ROOT / "examples"])
    assert list(faults) == [0, 1, 2]
    assert "KeyError" in faults[0]
