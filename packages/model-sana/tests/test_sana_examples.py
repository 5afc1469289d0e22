"""What people copy must be accepted as it stands, with no setting that nothing reads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tuner.config.loading import load_config

PACKAGE = Path(__file__).parents[1]
EXAMPLES = PACKAGE.parents[1] / "examples" / "sana"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for name in ("pseudo-camera-10k", "dreambooth-subject", "mine"):
        (tmp_path / "datasets" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "model_type", "rate"), [("config.json", "full", 1e-5), ("config-lokr.json", "lora", 1e-4)]
)
def test_examples_are_valid(project, name, model_type, rate):
    shutil.copytree(EXAMPLES, project / "config")
    loaded = load_config(project / "config" / name)
    assert (loaded.config.model.model_type, loaded.config.optimisation.learning_rate) == (model_type, rate)
    assert len(loaded.config.datasets) == 3
    assert len(loaded.config.prompts) == 4
    assert (loaded.config.lycoris is not None) == (model_type == "lora")
    assert dict(loaded.unread) == {}


def test_the_readmes_configuration_is_valid(project):
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    config, datasets = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    (project / "config.json").write_text(config, encoding="utf-8")
    (project / "multidatabackend.json").write_text(datasets, encoding="utf-8")
    loaded = load_config(project / "config.json", {"sana_complex_human_instruction": "None"})
    assert [dataset.id for dataset in loaded.config.datasets] == ["mine"]
    assert loaded.config.flat()["sana_complex_human_instruction"] == []
    assert dict(loaded.unread) == {}
