"""Whole runs on pictures that are not in a local folder, and what leaves them as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.config.loading import load_config
from tuner.errors import ConfigError, DatasetError
from tuner.training.run import train


def write_csv(photographs, *extra):
    """A CSV of local paths, captions in it, and further rows."""
    rows = [f"{path},a photograph called {path.stem}" for path in sorted(photographs.glob("*.png"))]
    Path("pictures.csv").write_text("\n".join(["url,caption", *rows, *extra]) + "\n")


def entry(**keys):
    return {"type": "csv", "csv_file": "pictures.csv", "caption_strategy": "csv", "instance_data_dir": "", **keys}


def test_a_run_on_a_csv_equals_one_on_the_folder(project, photographs, caplog):
    write_csv(photographs, "missing.png,nothing")
    caplog.set_level("INFO", logger="tuner")
    train(load_config(project(dataset=entry(), max_train_steps=2)))
    assert "there is no file of its path" in caplog.text
    state = json.loads(Path("output/checkpoint-2/training_state.json").read_text())
    assert state["step"] == 2
    mirrored = sorted(path.name for path in Path("cache/sources/photographs").rglob("*.png"))
    assert mirrored == sorted(path.name for path in photographs.glob("*.png"))


def test_sources_that_cannot_be_followed_stop_the_run_before_anything_is_loaded(project, photographs):
    with pytest.raises(ConfigError, match=r"csv_file"):
        train(load_config(project(dataset=entry(csv_file="missing.csv"))))
    write_csv(photographs)
    Path("pictures.csv").write_text("url,caption\nmissing.png,nothing\n")
    with pytest.raises(DatasetError, match="none of the 1 pictures"):
        train(load_config(project(dataset=entry())))
