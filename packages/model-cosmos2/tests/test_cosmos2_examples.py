"""What people copy must be accepted as it stands, with no setting that nothing reads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tuner.config.loading import load_config

PACKAGE = Path(__file__).parents[1]
EXAMPLES = PACKAGE.parents[1] / "examples" / "cosmos2"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for name in ("pseudo-camera-10k", "dreambooth-subject", "mine"):
        (tmp_path / "datasets" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_is_valid(project):
    shutil.copytree(EXAMPLES, project / "config")
    loaded = load_config(project / "config" / "config.json")
    assert loaded.family.facts.name == "cosmos2"
    assert (loaded.config.model.model_type, loaded.config.optimisation.learning_rate) == ("lora", 6e-5)
    assert len(loaded.config.datasets) == 2
    assert len(loaded.config.prompts) == 4
    assert loaded.config.lycoris.bypass_mode is True
    assert dict(loaded.unread) == {}


def test_the_readmes_configuration_is_valid(project):
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    config, datasets = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    (project / "config.json").write_text(config, encoding="utf-8")
    (project / "multidatabackend.json").write_text(datasets, encoding="utf-8")
    loaded = load_config(project / "config.json", {"cosmos2_sample_without_guardrail": "true"})
    assert [dataset.id for dataset in loaded.config.datasets] == ["mine"]
    assert loaded.config.flat()["cosmos2_sample_without_guardrail"] is True
    assert dict(loaded.unread) == {}
