"""Latents that are encoded on demand, kept nowhere, or replaced from epoch to epoch; weights of data sets."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file

from tuner.caching.collecting import survey
from tuner.caching.store import ShardStore
from tuner.config.loading import load_config
from tuner.training.run import train

WEIGHTS = "pytorch_lora_weights.safetensors"


def losses(output="output"):
    lines = (json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def entries(folder):
    return len(ShardStore(Path(folder))) if Path(folder).exists() else 0


def run(project, output, dataset=None, **settings):
    config = project(dataset=dataset, output_dir=output, vae_batch_size=1, log_interval=1, **settings)
    train(load_config(config))
    return losses(output)


def test_on_demand_and_without_a_cache_a_run_is_the_same(project):
    usual = run(project, "usual", cache_dir="usual-cache")
    on_demand = run(project, "later", cache_dir="later-cache", vae_cache_ondemand=True)
    disabled = run(project, "never", cache_dir="never-cache", vae_cache_disable=True)
    assert len(usual) == 6
    assert usual == on_demand == disabled
    trained = load_file(Path("usual") / WEIGHTS)
    for other in ("later", "never"):
        assert all(trained[name].equal(value) for name, value in load_file(Path(other) / WEIGHTS).items())
    assert entries("usual-cache/latents") == entries("later-cache/latents") == 6
    assert entries("never-cache/latents") == 0


def test_on_demand_fills_only_what_was_needed_and_a_second_run_finds_it(project, caplog):
    run(project, "first", cache_dir="cache", vae_cache_ondemand=True, max_train_steps=1)
    assert entries("cache/latents") == 2
    caplog.set_level("INFO", logger="tuner")
    run(project, "second", cache_dir="cache", max_train_steps=1)
    assert "4 encoded, 2 found in the cache" in caplog.text


def test_one_data_set_may_differ_from_the_others(project):
    run(project, "output", dataset={"vae_cache_disable": "true"}, cache_dir="cache")
    assert entries("cache/latents") == 0


CROPS = {"crop": True, "crop_aspect": "square", "crop_style": "random", "resolution": 64}


def test_crops_are_drawn_anew_in_every_epoch_and_old_latents_go(project):
    """Six pictures in batches of two: three steps an epoch."""
    kept = run(project, "kept", dataset=CROPS, cache_dir="kept-cache")
    anew = run(project, "anew", dataset={**CROPS, "vae_cache_clear_each_epoch": True}, cache_dir="anew-cache")
    assert [kept[step] for step in (1, 2, 3)] == [anew[step] for step in (1, 2, 3)]
    assert all(kept[step] != anew[step] for step in (4, 5, 6))
    assert entries("kept-cache/latents") == entries("anew-cache/latents") == 6
    assert survey(ShardStore(Path("anew-cache/latents")), set()).void.count == 0


def test_a_resumed_run_has_the_crops_of_its_epoch(project):
    dataset = {**CROPS, "vae_cache_clear_each_epoch": True}
    straight = run(project, "straight", dataset=dataset, cache_dir="straight-cache", max_train_steps=8)
    run(project, "halves", dataset=dataset, cache_dir="halves-cache", max_train_steps=4)
    resumed = run(project, "halves", dataset=dataset, cache_dir="halves-cache", max_train_steps=8)
    assert {step: resumed[step] for step in straight} == straight
    first, second = (load_file(Path(output) / WEIGHTS) for output in ("straight", "halves"))
    assert all(first[name].equal(second[name]) for name in first)


def test_crops_that_change_need_no_cache(project):
    dataset = {**CROPS, "vae_cache_clear_each_epoch": True}
    cached = run(project, "cached", dataset=dataset, cache_dir="cache")
    assert run(project, "bare", dataset=dataset, cache_dir="no-cache", vae_cache_disable=True) == cached


def test_a_receipt_lies_beside_the_results(project):
    train(load_config(project(max_train_steps=1), {"lr_warmup_steps": 0}))
    rows = {row["key"]: row for row in json.loads(Path("output/settings_receipt.json").read_text())}
    assert (rows["lr_warmup_steps"]["value"], rows["lr_warmup_steps"]["origin"]) == (0, "command line")
    assert rows["lora_rank"]["unread"] is None
    assert rows["photographs: resolution"]["value"] == 192
