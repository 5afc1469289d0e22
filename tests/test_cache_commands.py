"""`tuner cache` and what looks after caches: stat, verify, gc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.caching.store import ShardStore
from tuner.cli.main import main

KINDS = {"latents": 6, "text": 13}
"""Folder -> entries of the project: six pictures; two captions each, and none."""


@pytest.fixture
def filled(project, capsys):
    config = str(project(cache_dir="cache"))
    assert main(["cache", config]) == 0
    capsys.readouterr()
    return config


def stat(config, capsys, *settings):
    assert main(["cache", "stat", config, "--json", *settings]) == 0
    return {Path(row["folder"]).name: row for row in json.loads(capsys.readouterr().out)["folders"]}


def damage(folder):
    """Flip a bit of the last entry of a folder, its times as they were. Returns the note of the entry."""
    shard = sorted(folder.glob("shard-*"))[-1]
    content, times = bytearray(shard.read_bytes()), shard.stat()
    place = max(ShardStore(folder).places(), key=lambda item: (item.shard, item.tensors[0].start))
    content[place.tensors[0].start] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    return place.note


def test_stat_counts_what_is_there_and_needed(filled, capsys):
    rows = stat(filled, capsys)
    assert {name: (row["needed"], row["present"], row["entries"]["count"]) for name, row in rows.items()} == {
        name: (count, count, count) for name, count in KINDS.items()
    }
    for name, row in rows.items():
        shards = list(Path("cache", name).glob("shard-*"))
        assert row["shards"] == {"count": len(shards), "bytes": sum(path.stat().st_size for path in shards)}
        empty = {"count": 0, "bytes": 0}
        assert row["unneeded"] == row["void"] == row["damaged_files"] == row["leftovers"] == empty
    assert rows["latents"]["holds"] == ["latents of photographs"]


def test_stat_before_anything_is_filled(project, capsys):
    rows = stat(str(project(cache_dir="cache")), capsys)
    assert {name: (row["needed"], row["present"]) for name, row in rows.items()} == {
        name: (count, 0) for name, count in KINDS.items()
    }
    assert not Path("cache/latents").exists()


def test_stat_for_people(filled, capsys):
    (Path("cache/text") / "shard-x.safetensors.damaged").write_bytes(bytes(3000))
    assert main(["cache", "stat", filled, "--resolution", "128"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cache/latents (latents of photographs)"
    assert "  needed     13 of 13 entries are there" in lines
    assert lines[-1] == "  to free    1 damaged shards that were set aside, 2.9 KiB"


def test_another_configuration_needs_something_else(project, filled, capsys):
    other = str(project(cache_dir="cache", dataset={"resolution": 128}))
    row = stat(other, capsys)["latents"]
    assert (row["needed"], row["present"], row["unneeded"]["count"]) == (6, 0, 6)
    assert main(["cache", other]) == 0
    capsys.readouterr()
    row = stat(other, capsys)["latents"]
    assert (row["needed"], row["present"], row["unneeded"]["count"], row["entries"]["count"]) == (6, 6, 6, 12)


def test_looking_loads_no_model(filled):
    code = (
        "import sys\nfrom tuner.cli.main import main\nfrom tuner.training.session import Session\n"
        "def refuse(*_, **__): raise AssertionError('a model was loaded')\n"
        "Session.load = refuse\n"
        f"assert main(['cache', 'stat', {filled!r}]) == 0\n"
        f"assert main(['cache', 'gc', {filled!r}, '--yes']) == 0\n"
        "print('transformers.models' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_is_not_here_is_not_downloaded(project, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    config = project(cache_dir="cache", pretrained_model_name_or_path="nobody/nothing")
    assert main(["cache", "stat", str(config)]) == 1
    assert "nobody/nothing is not on this machine\n    -> `tuner cache` downloads it" in capsys.readouterr().err


def test_verify_reads_everything(filled, capsys):
    assert main(["cache", "verify", filled]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cache/latents (latents of photographs): 6 entries are whole",
        "cache/text (conditionings): 13 entries are whole",
    ]


@pytest.mark.parametrize("folder", ["latents", "text"])
def test_verify_names_what_is_damaged_and_filling_rebuilds_it(filled, capsys, folder):
    note = damage(Path("cache", folder))
    assert main(["cache", "verify", filled]) == 1
    out = capsys.readouterr().out
    assert f"({note})" in out
    assert f"{KINDS[folder] - 1} entries are whole" in out
    assert stat(filled, capsys)[folder]["present"] == KINDS[folder] - 1
    assert main(["cache", filled]) == 0
    assert f"1 encoded, {KINDS[folder] - 1} found" in capsys.readouterr().err
    assert main(["cache", "verify", filled]) == 0


def test_verify_names_a_shard_that_is_cut_off(filled, capsys):
    shard = next(Path("cache/latents").glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["cache", "verify", filled]) == 1
    shown = capsys.readouterr()
    assert f"{shard} is damaged" in shown.err
    assert "cache/latents (latents of photographs): 0 entries are whole" in shown.out
    assert stat(filled, capsys)["latents"]["damaged_files"]["count"] == 1
    assert main(["cache", "verify", filled]) == 0


def test_gc_says_what_it_would_free_and_frees_it_when_told(project, filled, capsys):
    damage(Path("cache/latents"))
    assert main(["cache", "verify", filled]) == 1
    other = str(project(cache_dir="cache", dataset={"resolution": 128, "caption_strategy": "filename"}))
    assert main(["cache", other]) == 0
    (Path("cache/text") / "shard-x.safetensors.damaged").write_bytes(b"12345")
    capsys.readouterr()
    before = {path: path.read_bytes() for path in Path("cache").rglob("*") if path.is_file()}

    assert main(["cache", "gc", other]) == 0
    out = capsys.readouterr().out
    assert "5 entries that this configuration does not need" in out
    assert "1 entries that are damaged, replaced or there a second time" in out
    assert "12 entries that this configuration does not need" in out
    assert "1 damaged shards that were set aside, 5 bytes" in out
    assert "nothing is deleted without --yes" in out
    assert "Other configurations may share these folders" in out
    assert {path: path.read_bytes() for path in Path("cache").rglob("*") if path.is_file()} == before

    assert main(["cache", "gc", other, "--yes"]) == 0
    assert "freed" in capsys.readouterr().out
    rows = stat(other, capsys)
    assert rows["text"]["entries"]["count"] == rows["text"]["present"] == 7
    assert rows["latents"]["entries"]["count"] == rows["latents"]["present"] == 6
    for row in rows.values():
        assert row["unneeded"]["count"] == row["void"]["count"] == row["damaged_files"]["count"] == 0
    assert main(["cache", "gc", other]) == 0
    assert "would be freed" not in capsys.readouterr().out


def test_gc_in_vain(filled, capsys):
    assert main(["cache", "gc", filled, "--yes"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cache/latents (latents of photographs): 0 bytes to free",
        "cache/text (conditionings): 0 bytes to free",
        "freed 0 bytes",
    ]
    assert main(["cache", filled]) == 0
    assert "0 encoded, 6 found" in capsys.readouterr().err


def test_what_is_evaluated_with_is_needed_too(project, photographs, filled, capsys):
    """Its latents and captions are not the run's; nothing that evaluation caches may be freed."""
    config = project(cache_dir="cache", eval_steps_interval=2, num_eval_images=5)
    entries = json.loads(Path("multidatabackend.json").read_text())
    entries.append({**entries[0], "id": "held-out", "dataset_type": "eval", "resolution": 128})
    Path("multidatabackend.json").write_text(json.dumps(entries))
    row = stat(str(config), capsys)["latents"]
    assert row["holds"] == ["latents of photographs", "latents of held-out"]
    assert (row["needed"], row["present"], row["unneeded"]["count"]) == (11, 6, 0)
    row = stat(str(config), capsys, "--eval_loss_disable", "true")["latents"]
    assert (row["needed"], row["present"]) == (6, 6)


def test_nothing_is_freed_for_pictures_that_were_never_fetched(project, filled, capsys):
    """Their latents cannot be told from what nobody needs."""
    Path("pictures.csv").write_text("url,caption\nhttp://127.0.0.1:9/a.png,a picture\n")
    remote = {"type": "csv", "csv_file": "pictures.csv", "caption_strategy": "csv", "instance_data_dir": None}
    config = str(project(cache_dir="cache", dataset=remote))
    before = sorted(Path("cache/latents").iterdir())
    assert main(["cache", "gc", config, "--yes"]) == 1
    assert "'photographs' are not on this machine" in capsys.readouterr().err
    assert sorted(Path("cache/latents").iterdir()) == before
