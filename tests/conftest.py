"""Whole runs on a twin and real photographs, for tests that need more than one package."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Packages of others: they are not installed here, and scripts/isolated.py runs their tests where they are.
collect_ignore = ["third_party"]

FAMILY = "sana"
Project = Callable[..., Path]


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin of the family under test."""
    from tuner.cli.twins import write_twin
    from tuner.plugins import load_family

    return write_twin(load_family(FAMILY), tmp_path_factory.mktemp("twin") / "twin")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real photographs of three shapes, captions beside them."""
    from PIL import Image
    from skimage import data

    folder = tmp_path_factory.mktemp("photographs")
    shipped = {"astronaut": (160, 160), "chelsea": (192, 128), "coffee": (192, 128), "rocket": (192, 128)}
    for name, size in {**shipped, "hubble_deep_field": (160, 160), "motorcycle_left": (160, 160)}.items():
        file = next(Path(data.__file__).parent.glob(f"{name}.*"))
        Image.open(file).convert("RGB").resize(size).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a photograph of {name}\na picture, {name}\n")
    return folder


@pytest.fixture
def project(twin: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Write a project of a few steps into the working directory and return its configuration file."""
    monkeypatch.chdir(tmp_path)

    def write(lycoris: dict[str, Any] | None = None, dataset: dict[str, Any] | None = None, **settings: Any) -> Path:
        entry = {
            "id": "photographs",
            "instance_data_dir": str(photographs),
            "caption_strategy": "textfile",
            "resolution": 192,
            "resolution_type": "pixel_area",
            **(dataset or {}),
        }
        config = {
            "model_family": FAMILY,
            "model_type": "lora",
            "lora_type": "lycoris",
            "lycoris_config": "lycoris_config.json",
            "pretrained_model_name_or_path": str(twin),
            "data_backend_config": "multidatabackend.json",
            "output_dir": "output",
            "max_train_steps": 6,
            "train_batch_size": 2,
            "learning_rate": 1e-3,
            "lr_warmup_steps": 2,
            "optimizer": "optimi-adamw",
            "mixed_precision": "no",
            "validation_step_interval": 0,
            **settings,
        }
        lokr = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 4}
        Path("lycoris_config.json").write_text(json.dumps({**lokr, **(lycoris or {})}))
        Path("multidatabackend.json").write_text(json.dumps([entry]))
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return path

    return write


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Hash everything that a checkpoint in a folder holds, but for what names the run and the time."""

    def of(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("manifest.json", "training_state.json")
        }

    return of


@pytest.fixture(autouse=True)
def visible_log() -> Iterator[None]:
    """Let pytest see what the command line keeps to its own handler."""
    logger = logging.getLogger("tuner")
    propagate, logger.propagate = logger.propagate, True
    yield
    logger.propagate = propagate
