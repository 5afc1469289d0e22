"""What people copy must be accepted as it stands, with no setting that nothing reads."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tuner.config.loading import load_config
from tuner.errors import ConfigError, DatasetError
from tuner.training.data import prepare_data
from tuner.training.session import open_session

PACKAGE = Path(__file__).parents[1]
EXAMPLES = PACKAGE.parents[1] / "examples" / "auraflow"


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
    assert len(loaded.config.datasets) == 2
    assert len(loaded.config.prompts) == 4
    assert dict(loaded.unread) == {}


def test_the_readmes_configuration_is_valid(project):
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    config, datasets = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    (project / "config.json").write_text(config, encoding="utf-8")
    (project / "multidatabackend.json").write_text(datasets, encoding="utf-8")
    loaded = load_config(project / "config.json", {"auraflow_token_limit": "768", "tokenizer_max_length": "1000"})
    assert [dataset.id for dataset in loaded.config.datasets] == ["mine"]
    assert loaded.config.flat()["tokenizer_max_length"] == 768
    assert dict(loaded.unread) == {}


@pytest.mark.parametrize("side", [256, 272])
def test_pictures_beyond_the_weights_limit_are_refused_before_anything_is_encoded(project, auraflow_twin, side):
    entry = {"id": "mine", "instance_data_dir": "datasets/mine", "caption_strategy": "filename", "resolution": 256}
    (project / "datasets.json").write_text(json.dumps([entry]))
    settings = {"pretrained_model_name_or_path": str(auraflow_twin), "data_backend_config": "datasets.json"}
    pictures = {"validation_prompt": "a cat", "validation_resolution": f"128,{side}", "resolution": 256}
    training = {"model_family": "auraflow", "model_type": "lora", "optimizer": "optimi-adamw", "output_dir": "output"}
    session = open_session(load_config(None, {**training, "max_train_steps": 1, **settings, **pictures}))
    if side == 256:
        with pytest.raises(DatasetError, match="no images"):
            prepare_data(session)
    else:
        with pytest.raises(ConfigError, match="272x272 is too large: this model takes sides of at most 256 pixels"):
            prepare_data(session)
