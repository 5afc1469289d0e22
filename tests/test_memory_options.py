"""Settings that save memory, in whole runs of real families."""

import gc
import logging
import weakref
from pathlib import Path

import pytest

from tuner.config.loading import load_config
from tuner.errors import TunerError
from tuner.plugins import load_family
from tuner.training.data import prepare_data
from tuner.training.run import train
from tuner.training.session import Session, open_session


@pytest.fixture
def loaded_parts(monkeypatch):
    """(name, weak reference) of every text encoder and autoencoder that is loaded."""
    parts = []
    load = Session.load

    def watched(self, *names, **rest):
        components = load(self, *names, **rest)
        parts.extend((name, weakref.ref(module)) for name, module in components.text_encoders.items())
        if components.codec is not None:
            parts.append(("codec", weakref.ref(components.codec.module)))
        return components

    monkeypatch.setattr(Session, "load", watched)
    return parts


def alive(parts):
    return [name for name, module in parts if module() is not None]


def test_encoders_leave_memory_before_training(project, loaded_parts):
    gc.disable()  # what is released must be released by the product
    try:
        data = prepare_data(open_session(load_config(project())))
    finally:
        gc.enable()
    assert [name for name, _ in loaded_parts] == ["codec", "text_encoder"]
    assert alive(loaded_parts) == []
    data.latents.close()


def test_a_codec_that_is_needed_on_demand_stays(project, loaded_parts):
    data = prepare_data(open_session(load_config(project(vae_cache_ondemand=True))))
    assert alive(loaded_parts) == []
    data.latents.read(data.plan.buckets[0].samples[0])
    assert alive(loaded_parts) == ["codec"]
    data.latents.close()
    assert alive(loaded_parts) == []


def test_group_offload_on_a_cpu_changes_nothing(project, caplog, weights):
    settings = {"max_train_steps": 2, "lora_type": "standard"}
    plain = train(load_config(project(**settings, output_dir="plain"))).exported
    caplog.clear()
    offload = {"enable_group_offload": True, "group_offload_use_stream": True, "group_offload_to_disk_path": "spill"}
    same = train(load_config(project(**settings, **offload, output_dir="offloaded"))).exported
    assert weights(same) == weights(plain)
    warned = [record.getMessage() for record in caplog.records if "enable_group_offload" in record.getMessage()]
    assert len(warned) == 1
    assert Path("spill").is_dir()


def test_an_unwritable_folder_is_refused_before_anything_is_loaded(project, loaded_parts):
    Path("file").write_text("")
    config = project(enable_group_offload=True, group_offload_to_disk_path="file/spill")
    with pytest.raises(TunerError, match="cannot be written"):
        train(load_config(config))
    assert loaded_parts == []


def test_latents_in_tiles_are_not_those_of_whole_pictures(project):
    session = open_session(load_config(project()))
    sample = prepare_data(session).plan.buckets[0].samples[0]
    keys = []
    for settings in ({}, {"vae_enable_slicing": True}, {"vae_enable_tiling": True}):
        other = open_session(load_config(project(**settings)))
        from tuner.training.caches import latent_caches
        from tuner.training.planning import open_index

        cache = latent_caches(other, other.config.datasets, open_index(other.config))["photographs"]
        keys.append(cache.key_of(sample))
    assert keys[0] == keys[1] != keys[2]


def test_slicing_and_tiling_reach_the_autoencoder(project, caplog):
    caplog.set_level(logging.INFO, logger="tuner")
    session = open_session(load_config(project(vae_enable_slicing=True, vae_enable_tiling=True)))
    codec = session.load("codec").codec
    assert (codec.module.use_slicing, codec.module.use_tiling) == (True, True)
    assert "AutoencoderDC: slicing on, tiling on for pictures of more than 512 pixels along a side" in caplog.text


@pytest.mark.parametrize("asked", ["sageattention", "xformers", "native-math"])
def test_a_family_with_attention_of_its_own_falls_back(project, caplog, asked, weights):
    assert "attention_mechanism" in load_family("sana").facts.inert_settings
    plain = train(load_config(project(max_train_steps=1, output_dir="plain"))).exported
    loaded = load_config(project(max_train_steps=1, attention_mechanism=asked, output_dir="asked"))
    same = train(loaded).exported
    assert weights(same) == weights(plain)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith("attention_mechanism: its layers call torch's own attention")
    assert loaded.unread["attention_mechanism"]


def test_asking_for_the_default_asks_for_nothing(project, caplog):
    loaded = load_config(project(attention_mechanism="diffusers", max_train_steps=1))
    assert "attention_mechanism" not in loaded.unread
