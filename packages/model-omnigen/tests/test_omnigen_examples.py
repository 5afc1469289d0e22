"""What people copy must be accepted as it stands, with no setting that nothing reads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tuner.config.loading import load_config

PACKAGE = Path(__file__).parents[1]
EXAMPLES = PACKAGE.parents[1] / "examples" / "omnigen"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for name in ("pseudo-camera-10k", "dreambooth-subject", "mine"):
        (tmp_path / "datasets" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_is_valid(project):
    shutil.copytree(EXAMPLES, project / "config")
    loaded = load_config(project / "config" / "config.json")
    assert (loaded.config.model.model_type, loaded.config.optimisation.learning_rate) == ("lora", 4e-5)
    assert loaded.config.lycoris is not None
    assert (len(loaded.config.datasets), len(loaded.config.prompts)) == (3, 4)
    assert dict(loaded.unread) == {}


def test_the_readmes_configuration_is_valid(project):
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    config, datasets = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    (project / "config.json").write_text(config, encoding="utf-8")
    (project / "multidatabackend.json").write_text(datasets, encoding="utf-8")
    loaded = load_config(project / "config.json")
    assert [dataset.id for dataset in loaded.config.datasets] == ["mine"]
    assert dict(loaded.unread) == {}


@pytest.mark.parametrize(("key", "value"), [("flow_schedule_shift", 3.0), ("flow_schedule_auto_shift", True)])
def test_a_shift_is_reported_and_replaced(project, key, value):
    shutil.copytree(EXAMPLES, project / "config")
    loaded = load_config(project / "config" / "config.json", {key: value})
    assert set(loaded.unread) == {key}
    assert loaded.config.flow.flow_schedule_shift == 0
    assert loaded.config.flow.flow_schedule_auto_shift is False
