"""The recipes for small graphics cards that SimpleTuner's users have: each is accepted, or refused with the reason."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tuner.cli.twins import write_twin
from tuner.config.loading import load_config
from tuner.errors import ConfigError
from tuner.plugins import load_family
from tuner.training.run import train

FILES = Path(__file__).parent / "user_files"
FOLDERS = ("datasets/pseudo-camera-10k", "datasets/dreambooth-subject", "datasets/test_datasets/squares")
PRECISIONS = {
    "omnigen": ("int8-quanto", "fp8-torchao", "int8-torchao"),
    "auraflow": ("int8-quanto", "fp8-torchao", "int8-torchao", "int4-quanto", "nf4-bnb"),
    "hidream": ("int8-quanto", "fp8-torchao", "int8-torchao", "int4-quanto", "nf4-bnb"),
    "sana": ("int8-quanto", "fp8-torchao", "int8-torchao", "nf4-bnb"),
}
"""Formats of the base model that each family's recipes name."""

LEAN = {
    "optimizer": "bnb-lion8bit-paged",
    "learning_rate": "2e-5",
    "mixed_precision": "bf16",
    "train_batch_size": 1,
    "gradient_accumulation_steps": "1",
    "--quantize_via": "cpu",
    "--gradient_checkpointing": "true",
    "offload_during_startup": "true",
    "vae_enable_slicing": "true",
    "vae_enable_tiling": "true",
}
ADAPTERS = {
    "rank 1": {"lora_type": "standard", "lora_rank": 1},
    "factor 25": {"lora_type": "lycoris", "lycoris_config": "lokr.json"},
}
LOKR = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 25}
COSMOS2 = {
    "optimizer": "adamw_8bit",
    "learning_rate": 6e-5,
    "mixed_precision": "bf16",
    "train_batch_size": 1,
    "gradient_checkpointing": True,
    "quantize_via": "cpu",
    "vae_cache_disable": True,
}


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Load a configuration of a family with its users' data set file."""
    monkeypatch.chdir(tmp_path)
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True)
    Path("lokr.json").write_text(json.dumps(LOKR))

    def load(family, **settings):
        shutil.copytree(FILES / family, Path("config") / family, dirs_exist_ok=True)
        config = {
            "model_family": family,
            "model_type": "lora",
            "output_dir": "output",
            "max_train_steps": 10,
            "data_backend_config": f"config/{family}/multidatabackend.json",
        }
        Path("config.json").write_text(json.dumps({**config, **settings}))
        return load_config(Path("config.json"))

    return load


def problems(configured, family, **settings):
    with pytest.raises(ConfigError) as caught:
        configured(family, **settings)
    return {problem.key: problem for problem in caught.value.problems}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("family", "precision"), [(family, precision) for family, names in PRECISIONS.items() for precision in names]
)
def test_the_recipes_for_small_cards_are_accepted(configured, family, precision, adapter):
    loaded = configured(family, base_model_precision=precision, **LEAN, **ADAPTERS[adapter])
    assert loaded.config.precision.base_model_precision == precision
    assert {key for key in loaded.unread if ": " not in key} == {"offload_during_startup"}


def test_the_recipe_of_cosmos2_is_accepted_and_quantises_nothing(configured):
    loaded = configured("cosmos2image", **COSMOS2, **ADAPTERS["rank 1"])
    assert loaded.config.optimisation.optimizer == "bnb-adamw8bit"
    assert not [key for key in loaded.unread if ": " not in key]
    for precision in PRECISIONS["hidream"]:
        found = problems(configured, "cosmos2image", base_model_precision=precision, **COSMOS2)
        assert list(found) == ["base_model_precision"]
        assert "Cosmos2 is not to be quantised; use no_change" in found["base_model_precision"].message


def test_hidreams_encoders_follow_the_library_of_its_base(configured):
    encoders = {"text_encoder_3_precision": "int8-quanto", "text_encoder_4_precision": "int8-quanto"}
    assert configured("hidream", base_model_precision="int4-quanto", **encoders, **LEAN)
    found = problems(configured, "hidream", base_model_precision="nf4-bnb", **encoders, **LEAN)
    assert list(found) == ["text_encoder_4_precision"]
    assert found["text_encoder_4_precision"].remedy == "use a format that ends in -bnb, or no_change"
    encoders["text_encoder_4_precision"] = "nf4-bnb"
    assert configured("hidream", base_model_precision="nf4-bnb", **encoders, **LEAN)


def test_what_is_wrong_with_a_recipe_is_told_at_once(configured):
    wrong = {
        "optimizer": "bnb-lion8bit-pages",
        "base_model_precision": "int8-quant",
        "quantize_via": "gpu",
        "gradient_checkpointing_interval": 0,
        "vae_enable_tilling": True,
        "mixed_precision": "fp8",
    }
    found = problems(configured, "sana", **{**LEAN, **wrong, "--quantize_via": "gpu"})
    assert found.keys() == wrong.keys()
    assert found["optimizer"].message.endswith("did you mean bnb-lion8bit-paged?")
    assert "vae_enable_tiling" in f"{found['vae_enable_tilling'].message} {found['vae_enable_tilling'].remedy}"


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    "family",
    [name if name == "sana" else pytest.param(name, marks=pytest.mark.long) for name in (*PRECISIONS, "cosmos2")],
)
def test_the_recipes_run(family, adapter, photographs, tmp_path, monkeypatch, caplog):
    """On a CPU, with a twin: all that the recipe asks for happens, and what was trained is re-opened."""
    caplog.set_level(logging.INFO, "tuner")
    monkeypatch.chdir(tmp_path)
    stored = {"cosmos2": (), "omnigen": ("base_model",), "hidream": ("base_model", "text_encoder_3", "text_encoder_4")}
    asked = stored.get(family, ("base_model", "text_encoder_1"))
    lean = {**(COSMOS2 if family == "cosmos2" else LEAN), **{f"{part}_precision": "int8-quanto" for part in asked}}
    Path("lokr.json").write_text(json.dumps(LOKR))
    pictures = {"id": "photographs", "instance_data_dir": str(photographs), "caption_strategy": "textfile"}
    Path("data.json").write_text(json.dumps([{**pictures, "resolution": 128, "resolution_type": "pixel_area"}]))
    config = {
        "model_family": family,
        "model_type": "lora",
        "pretrained_model_name_or_path": str(write_twin(load_family(family), tmp_path / "twin")),
        "data_backend_config": "data.json",
        "output_dir": "output",
        "max_train_steps": 2,
        "validation_step_interval": 0,
        **lean,
        **ADAPTERS[adapter],
    }
    Path("config.json").write_text(json.dumps(config))
    result = train(load_config(Path("config.json")))
    assert result.step == 2
    folders = [line.partition(" ")[0] for line in caplog.messages if " is stored as int8-quanto: " in line]
    names = {"base_model": "transformer", "text_encoder_1": "text_encoder"}
    assert set(folders) == {names.get(part, part) for part in asked}
    assert ("bitsandbytes.optim.Lion8bit runs in its place" in caplog.text) == (family != "cosmos2")
    assert "was re-opened in a fresh model" in caplog.text
    assert all(tensor.isfinite().all() for tensor in load_file(result.exported).values())
