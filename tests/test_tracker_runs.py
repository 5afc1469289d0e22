"""A whole run that reports to Weights & Biases without a network."""

import json
import struct
from pathlib import Path

import pytest
import torch
import wandb
from safetensors.torch import load_file
from wandb.proto.wandb_internal_pb2 import Record

from tuner.config.loading import load_config
from tuner.training.run import train

BLOCK = 32768
SECRET = "hush-hush-12345"


def records(path: Path) -> list[Record]:
    """Read a run's file: after 7 bytes of its own, a log of LevelDB's format in blocks of 32 KiB."""
    data, position, parts, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.delenv("WANDB_DIR", raising=False)
    wandb.teardown()
    yield
    wandb.teardown()


def test_an_offline_run_holds_numbers_settings_and_pictures(project, offline, monkeypatch, tmp_path):
    monkeypatch.setenv("TUNER_TEST_PROMPT", SECRET)
    settings = {
        "max_train_steps": 2,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 0,
        "log_interval": 1,
        "validation_prompt": "{env:TUNER_TEST_PROMPT}",
        "validation_disable_unconditional": True,
        "validation_step_interval": 2,
        "validation_resolution": "64",
        "validation_num_inference_steps": 1,
        "validation_guidance": 1.0,
    }
    labels = {"tracker_project_name": "cats", "tracker_run_name": "first"}
    plain = load_file(str(train(load_config(project(**settings))).exported))
    Path("output").rename("plain")
    tracked = load_file(str(train(load_config(project(**settings, **labels, report_to="wandb"))).exported))
    assert all(torch.equal(plain[name], tensor) for name, tensor in tracked.items())

    (folder,) = Path("output/logs/wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    found = records(file)
    run = next(record.run for record in found if record.HasField("run"))
    assert (run.project, run.display_name) == ("cats", "first")
    rows = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    rows = {row["_step"]: row for row in rows}
    lines = [json.loads(line) for line in Path("output/metrics.jsonl").read_text().splitlines()]
    for line in lines:
        expected = {("train_loss" if name == "loss" else name): value for name, value in line.items() if name != "step"}
        assert {name: rows[line["step"]][name] for name in expected} == pytest.approx(expected)
    assert (rows[0]["base model/validation.count"], rows[2]["live/validation.count"]) == (1, 1)
    assert all((folder / "files" / name).is_file() for name in rows[2]["live/validation.filenames"])

    recorded = {}
    for record in found:
        if record.HasField("config"):
            for item in record.config.update:
                recorded[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert (recorded["max_train_steps"], recorded["validation_prompt"]) == (2, "(hidden)")
    assert recorded["pretrained_model_name_or_path"] == "twin"
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".log":
            assert SECRET.encode() not in path.read_bytes(), path
            assert str(tmp_path / "config.json").encode() not in path.read_bytes(), path
