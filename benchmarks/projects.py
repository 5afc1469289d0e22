"""Projects to measure: a model, pictures, a configuration and full caches."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from models import picture_edge, write_model
from tuner.config.loading import load_config
from tuner.family.twins import natural_pictures
from tuner.training.data import prepare_data
from tuner.training.session import open_session

PICTURES = 24
CONFIG = "config.json"


def write_project(family: str, size: str, folder: Path) -> Path:
    """Write a project, fill its caches and return its configuration file."""
    model = write_model(family, size, folder / "model")
    _write_pictures(folder / "pictures", picture_edge(family, size))
    dataset = {
        "id": "pictures",
        "instance_data_dir": str(folder / "pictures"),
        "caption_strategy": "textfile",
        "resolution": picture_edge(family, size),
        "resolution_type": "pixel",
        "cache_dir_vae": str(folder / "cache" / "latents"),
    }
    lycoris = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 8}
    config = {
        "model_family": family,
        "model_type": "lora",
        "lora_type": "lycoris",
        "lycoris_config": str(folder / "lycoris_config.json"),
        "pretrained_model_name_or_path": str(model),
        "data_backend_config": str(folder / "multidatabackend.json"),
        "output_dir": str(folder / "output"),
        "cache_dir": str(folder / "cache"),
        "seed": 1,
        "max_train_steps": 100_000,
        "learning_rate": 1e-5,
        "optimizer": "optimi-adamw",
        "mixed_precision": "bf16" if torch.cuda.is_available() else "no",
        "gradient_checkpointing": False,
        "validation_step_interval": 0,
        "checkpoint_step_interval": 0,
    }
    (folder / "lycoris_config.json").write_text(json.dumps(lycoris), encoding="utf-8")
    (folder / "multidatabackend.json").write_text(json.dumps([dataset]), encoding="utf-8")
    path = folder / CONFIG
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    prepare_data(open_session(load_config(path)))
    return path


def _write_pictures(folder: Path, edge: int) -> None:
    folder.mkdir()
    pixels = (natural_pictures(PICTURES, edge) * 127.5 + 127.5).byte().permute(0, 2, 3, 1).numpy()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"picture number {number}", encoding="utf-8")
