"""Whole runs on a quantised base: exact, resumed exactly, and their adapters load on either base."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tuner.adapters import load_exported
from tuner.config.loading import load_config
from tuner.errors import CheckpointError, ConfigError
from tuner.quantisation.storing import stored_layers
from tuner.training import session as sessions
from tuner.training.caches import conditioning_cache
from tuner.training.run import train
from tuner.training.session import open_session

LOKR = {"lora_type": "lycoris"}
STANDARD = {"lora_type": "standard", "lora_rank": 4}
BF16 = {"mixed_precision": "bf16", "optimizer": "adamw_bf16"}
RUNS = {
    "lokr on int8-quanto": {**LOKR, "base_model_precision": "int8-quanto"},
    "lora on int8-quanto in bf16": {**STANDARD, **BF16, "base_model_precision": "int8-quanto"},
    "lokr on nf4-bnb in bf16": {**LOKR, **BF16, "base_model_precision": "nf4-bnb"},
    "lora on int8-torchao": {**STANDARD, "base_model_precision": "int8-torchao"},
    "lora on int2-quanto": {**STANDARD, "base_model_precision": "int2-quanto", "i_know_what_i_am_doing": True},
    "lokr from noise on fp8-torchao": {**LOKR, "base_model_precision": "fp8-torchao", "init_lokr_norm": 1e-2},
}
OFTEN = ("lokr on int8-quanto", "lora on int8-quanto in bf16")
"""Those of make test. The kit runs every format of every family."""


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.long) for name in RUNS]
)
def test_three_and_three_steps_on_a_quantised_base_are_six(project, name, caplog, digests):
    caplog.set_level(logging.INFO, "tuner")
    settings = {**RUNS[name], "cache_dir": "cache"}
    preset = {"full_matrix": True} if "noise" in name else {}
    train(load_config(project(preset, **settings, output_dir="straight")))
    assert f"transformer is stored as {settings['base_model_precision']}: " in caplog.text
    assert "was re-opened in a fresh model" in caplog.text
    train(load_config(project(preset, **settings, output_dir="halves", max_train_steps=3)))
    train(load_config(project(preset, **settings, output_dir="halves")))
    straight, halves = digests(Path("straight/checkpoint-6")), digests(Path("halves/checkpoint-6"))
    assert straight == halves
    assert digests(Path("halves/checkpoint-3")) != halves


def test_the_base_decides_on_what_is_learnt(project):
    for name in ("no_change", "int8-quanto", "int4-quanto"):
        train(load_config(project(base_model_precision=name, output_dir=name, cache_dir="cache")))
    learnt = [Path(name, "pytorch_lora_weights.safetensors").read_bytes() for name in ("no_change", "int8-quanto")]
    assert learnt[0] != learnt[1]
    with pytest.raises(CheckpointError, match="precision was 'no; transformer int8-quanto'"):
        train(load_config(project(output_dir="int8-quanto", cache_dir="cache", max_train_steps=8)))


@pytest.mark.parametrize("kind", [LOKR, STANDARD])
def test_an_adapter_from_a_quantised_run_loads_on_either_base(project, kind):
    settings = {**kind, "cache_dir": "cache", "learning_rate": 0.02}
    config = project(**settings, base_model_precision="int8-quanto")
    exported = train(load_config(config)).exported
    quantised = open_session(load_config(config)).load("denoiser").denoiser
    plain = open_session(load_config(project(**settings))).load("denoiser").denoiser
    assert stored_layers(quantised)
    assert not stored_layers(plain)
    assert load_exported(exported, quantised) == load_exported(exported, plain) > 0
    inputs = {
        "hidden_states": torch.linspace(-1, 1, 32 * 16).view(1, 32, 4, 4),
        "encoder_hidden_states": torch.linspace(-1, 1, 8 * 32).view(1, 8, 32),
        "timestep": torch.tensor([500.0]),
        "return_dict": False,
    }
    with torch.no_grad():
        one, other = quantised(**inputs)[0], plain(**inputs)[0]
    assert 0 < float((one - other).norm() / other.norm()) < 0.02


def test_encoders_are_quantised_by_their_number_and_cached_apart(project, caplog):
    caplog.set_level(logging.INFO, "tuner")
    plain = load_config(project(cache_dir="cache", max_train_steps=1))
    train(plain)
    assert "is stored as" not in caplog.text
    quantised = load_config(
        project(cache_dir="cache", max_train_steps=1, output_dir="other", text_encoder_1_precision="int8-quanto")
    )
    train(quantised)
    assert "text_encoder is stored as int8-quanto" in caplog.text
    rows = [conditioning_cache(open_session(loaded)).read("", "unconditional") for loaded in (plain, quantised)]
    one, other = (row["prompt_embeds"].float() for row in rows)
    assert 0 < float((one - other).norm() / other.norm()) < 0.05


def test_both_places_of_conversion_give_the_same_weights(project):
    """On a machine whose accelerator is the CPU this shows that the setting changes nothing else."""
    found = []
    for via in ("cpu", "accelerator"):
        config = project(base_model_precision="int8-quanto", quantize_via=via)
        layers = stored_layers(open_session(load_config(config)).load("denoiser").denoiser)
        found.append({name: layer.weight.dequantize() for name, layer in layers.items()})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_rebuilding_quantised_weights_is_refused(project):
    with pytest.raises(ConfigError, match=r"bypass_mode: false rebuilds .* int8-quanto stores rounded"):
        load_config(project({"bypass_mode": False}, base_model_precision="int8-quanto"))
    load_config(project({"bypass_mode": False}))
    loaded = load_config(project({"bypass_mode": True}, base_model_precision="int8-quanto"))
    assert loaded.config.lycoris.bypass_mode is True


def test_a_device_that_cannot_compute_with_a_format_is_named_before_anything_is_loaded(project, monkeypatch):
    loaded = load_config(project(base_model_precision="nf4-bnb", text_encoder_1_precision="fp8-torchao"))
    accelerator = sessions.Accelerator

    class OnAppleSilicon(accelerator):
        device = torch.device("mps")

    monkeypatch.setattr(sessions, "Accelerator", OnAppleSilicon)
    with pytest.raises(ConfigError, match="2 problems") as raised:
        open_session(loaded)
    assert "base_model_precision: nf4-bnb computes on cpu, cuda, xpu, and this run is on mps" in str(raised.value)


def test_model_type_full_stores_nothing_quantised(project):
    """The setting has no effect there, and the receipt says so."""
    config = project(model_type="full", base_model_precision="int8-quanto", i_know_what_i_am_doing=True)
    loaded = load_config(config)
    assert loaded.unread["base_model_precision"] == "model_type is 'full'"
    assert open_session(loaded).stored == ()


def test_the_run_says_how_much_smaller_the_base_became(project, caplog):
    caplog.set_level(logging.INFO, "tuner")
    open_session(load_config(project(base_model_precision="int8-quanto"))).load("denoiser")
    assert "16 linear layers, 0.7 MB before and 0.5 MB after; 6 delicate ones stay as they are" in caplog.text
