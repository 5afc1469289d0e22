"""`tuner demo`: the whole job on a twin and real photographs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tuner.cli.twins import write_twin
from tuner.config.loading import load_config
from tuner.errors import TunerError
from tuner.plugins import Family
from tuner.tracking.gallery.extension import PAGE
from tuner.tracking.journal import METRICS_FILE

PHOTOGRAPHS = {
    "astronaut": "a portrait of an astronaut in front of a flag",
    "chelsea": "a close-up of a ginger cat",
    "coffee": "a cup of coffee on a wooden table",
    "rocket": "a rocket on its launch pad at night",
    "hubble_deep_field": "galaxies in the depth of space",
    "motorcycle_left": "a motorcycle in a garage",
}
"""Photographs that scikit-image ships, and captions for them."""

STEPS = 240
MARK = ".tuner-demo"


def run_demo(family: Family, folder: Path) -> int:
    """Write twin, photographs and configuration, train, and say what there is to see.

    Raises:
        TunerError: The folder holds something that is not an earlier demonstration, or scikit-image is missing.
    """
    _make_room(folder)
    facts = family.facts
    print(f"1. a twin of {facts.title}: the real architecture, tiny, with random weights")
    twin = write_twin(family, folder / "twin")
    pictures = _write_photographs(folder / "photographs")
    print(f"2. {pictures} photographs with captions")
    config = _write_config(folder, facts.name, twin)
    print(f"3. training, as {config} says")
    from tuner.training.run import train

    result = train(load_config(config))
    first, last = _losses(folder / "output" / METRICS_FILE)
    print(f"\nloss: {first:.3f} in the first steps, {last:.3f} in the last ones")
    print(f"adapter:     {result.exported} (re-opened in a fresh model: same output)")
    print(f"pictures:    {folder / 'output' / 'validation_images'} (a twin knows nothing: they show noise)")
    print(f"the run:     {folder / 'output' / PAGE}, for a browser")
    print(f"checkpoints: {folder / 'output'}/checkpoint-*")
    print("\nNext, with your own pictures: copy the configuration, then")
    print(f"  tuner check {config}      what will be trained on, before anything is computed")
    print(f"  tuner train {config}      goes on from the last checkpoint; try --max_train_steps {2 * STEPS}")
    return 0


def _make_room(folder: Path) -> None:
    if folder.exists():
        if not (folder / MARK).is_file():
            raise TunerError(f"{folder} exists and is no earlier demonstration\n    -> tuner demo --folder ANOTHER")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).write_text(
        "Made by `tuner demo`, which replaces this folder when it runs again.\n", encoding="utf-8"
    )


def _write_photographs(folder: Path) -> int:
    try:
        from skimage import data
        from skimage.io import imread
    except ImportError as error:
        raise TunerError("the photographs come with scikit-image\n    -> pip install 'tuner-core[demo]'") from error
    from PIL import Image

    folder.mkdir()
    shipped = Path(data.__file__).parent
    for name, caption in PHOTOGRAPHS.items():
        file = next(shipped.glob(f"{name}.*"))
        Image.fromarray(imread(file)).convert("RGB").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
    return len(PHOTOGRAPHS)


def _write_config(folder: Path, family: str, twin: Path) -> Path:
    config: dict[str, Any] = {
        "model_family": family,
        "model_type": "lora",
        "lora_type": "lycoris",
        "lycoris_config": str(folder / "lycoris_config.json"),
        "pretrained_model_name_or_path": str(twin),
        "data_backend_config": str(folder / "multidatabackend.json"),
        "output_dir": str(folder / "output"),
        "cache_dir": str(folder / "cache"),
        "seed": 42,
        "max_train_steps": STEPS,
        "train_batch_size": 4,
        "learning_rate": 3e-3,
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": 10,
        "optimizer": "optimi-adamw",
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "use_ema": True,
        "caption_dropout_probability": 0.1,
        "checkpoint_step_interval": STEPS // 4,
        "checkpoints_total_limit": 2,
        "validation_prompt": PHOTOGRAPHS["chelsea"],
        "validation_step_interval": STEPS // 2,
        "validation_resolution": "256",
        "validation_num_inference_steps": 8,
        "validation_guidance": 4.0,
        "report_to": "none",
    }
    lycoris = {
        "algo": "lokr",
        "multiplier": 1.0,
        "linear_dim": 10000,
        "linear_alpha": 1,
        "factor": 4,
        "apply_preset": {"target_module": ["Attention", "FeedForward"]},
    }
    dataset = {
        "id": "photographs",
        "type": "local",
        "instance_data_dir": str(folder / "photographs"),
        "caption_strategy": "textfile",
        "resolution": 256,
        "resolution_type": "pixel_area",
        "crop": True,
        "crop_style": "center",
        "repeats": 3,
    }
    text = {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": True}
    (folder / "lycoris_config.json").write_text(json.dumps(lycoris, indent=2), encoding="utf-8")
    (folder / "multidatabackend.json").write_text(json.dumps([dataset, text], indent=2), encoding="utf-8")
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return path


def _losses(journal: Path) -> tuple[float, float]:
    """Mean loss of the first and the last quarter of the logged steps."""
    losses = [json.loads(line)["loss"] for line in journal.read_text(encoding="utf-8").splitlines()]
    quarter = max(1, len(losses) // 4)
    return sum(losses[:quarter]) / quarter, sum(losses[-quarter:]) / quarter
