"""What people copy must be accepted as it stands, with no setting that nothing reads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tuner.config.loading import load_config

PACKAGE = Path(__file__).parents[1]
EXAMPLES = PACKAGE.parents[1] / "examples" / "hidream"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for name in ("pseudo-camera-10k", "dreambooth-subject", "mine"):
        (tmp_path / "datasets" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("lycoris", ["lycoris_config.json", "lycoris_config-shared-experts.json"])
def test_examples_are_valid(project, lycoris):
    shutil.copytree(EXAMPLES, project / "config")
    loaded = load_config(project / "config" / "config.json", {"lycoris_config": lycoris})
    assert (loaded.config.model.model_flavour, loaded.config.optimisation.learning_rate) == ("full", 2e-5)
    assert loaded.config.flow.flow_schedule_shift == 3.0
    assert len(loaded.config.datasets) == 3
    assert loaded.config.lycoris.use_scalar
    assert dict(loaded.unread) == {}


def test_the_readmes_configuration_is_valid(project):
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    config, datasets = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    (project / "config.json").write_text(config, encoding="utf-8")
    (project / "multidatabackend.json").write_text(datasets, encoding="utf-8")
    options = {"hidream_use_load_balancing_loss": "true", "hidream_load_balancing_loss_weight": "0.1"}
    loaded = load_config(project / "config.json", options)
    assert [dataset.id for dataset in loaded.config.datasets] == ["mine"]
    assert loaded.config.flat()["hidream_use_load_balancing_loss"] is True
    assert loaded.config.flat()["hidream_load_balancing_loss_weight"] == 0.1
    assert dict(loaded.unread) == {}
