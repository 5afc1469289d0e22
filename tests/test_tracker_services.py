"""What services hold of a run, read with their own tools. Each needs its package: `make trackers` provides it."""

import csv
import json
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from PIL import Image

from tuner.config.loading import load_config
from tuner.events import Evaluated, ImagesValidated, RunEnded, RunStarted, StepEnded
from tuner.plugins import create_manager
from tuner.tracking import trackers

pytestmark = pytest.mark.trackers

LOGS = Path("output/logs")


@pytest.fixture
def tracked(project, monkeypatch, tmp_path):
    """Tell a service of a short run, in a folder of its own and with a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()

    PartialState()  # which a run has

    def run(name, **environment):
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        labels = {"tracker_project_name": "cats", "tracker_run_name": "first"}
        loaded = load_config(project(report_to=name, **labels))
        manager = create_manager(loaded.family, [trackers.create(loaded.config)])
        picture = tmp_path / "picture.png"
        Image.new("RGB", (8, 6), (200, 30, 10)).save(picture)
        settings = {"seed": 7, "prompt": None, "rate": 0.5, "name": "cat"}
        hook = manager.hook
        hook.run_started(event=RunStarted(loaded.config, 0, 2, Path("output"), None, {}, settings))
        hook.evaluated(event=Evaluated(0, "base model", {"eval_loss": 0.75}))
        hook.step_ended(event=StepEnded(1, torch.tensor(0.5), 1e-3, 2, {"grad_norm": torch.tensor(2.0)}, True))
        hook.step_ended(event=StepEnded(2, torch.tensor(0.25), 5e-4, 2, {"grad_norm": torch.tensor(1.0)}, True))
        hook.evaluated(event=Evaluated(2, "live", {"eval_loss": 0.125}, {"by_sigma": ((0.5, 0.25),)}))
        shown = {"a cat": (picture, picture)}
        hook.images_validated(event=ImagesValidated(2, "live", shown, {"a cat": "a cat"}, shown))
        hook.run_ended(event=RunEnded(2, "done", None))

    return run


@pytest.fixture(autouse=True)
def nothing_failed(caplog):
    yield
    assert [record.getMessage() for record in caplog.records if "goes on without it" in record.getMessage()] == []


LOSSES = {1: 0.5, 2: 0.25}
EVALUATIONS = {0: 0.75, 2: 0.125}


def test_mlflow(tracked):
    tracked("mlflow")
    import mlflow

    assert not Path("mlruns").exists()
    assert not Path("mlflow.db").exists()
    client = mlflow.MlflowClient(f"sqlite:///{(LOGS / 'mlflow.db').resolve()}")
    (run,) = client.search_runs([client.get_experiment_by_name("cats").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params["seed"] == "7"
    assert {point.step: point.value for point in client.get_metric_history(run.info.run_id, "train_loss")} == LOSSES
    assert {point.step: point.value for point in client.get_metric_history(run.info.run_id, "eval_loss")} == EVALUATIONS
    assert sum(path.suffix == ".png" for path in (LOGS / "mlflow").rglob("*")) >= 2
    assert not [name for name, value in run.data.tags.items() if ("git" in name and value) or "/" in value]


def test_aim(tracked):
    tracked("aim")
    from aim import Repo

    indexed = [str(Path(sys.executable).with_name("aim")), "storage", "--repo", str(LOGS), "reindex", "-y"]
    subprocess.run(indexed, check=True)  # which its server does
    (run,) = Repo(str(LOGS)).iter_runs()
    assert (run.name, run.experiment, run["hparams"]["seed"]) == ("first", "cats", 7)
    values = {metric.name: dict(metric.data.items()) for metric in run.metrics()}
    assert {step: point[0] for step, point in values["train_loss"].items()} == LOSSES
    assert {step: point[0] for step, point in values["eval_loss"].items()} == EVALUATIONS
    assert run.get("__system_params") is None
    (shown,) = Repo(str(LOGS)).query_images().iter()
    assert (shown.name, len(shown.values.first_value())) == ("live/a cat", 2)


def test_dvclive(tracked):
    tracked("dvclive")
    folder = LOGS / "dvclive" / "first"
    for name, expected in {"train_loss": LOSSES, "eval_loss": EVALUATIONS}.items():
        with (folder / f"plots/metrics/{name}.tsv").open(newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        assert {int(row["step"]): float(row[name]) for row in rows} == expected
    assert sorted(path.name for path in (folder / "plots/images").rglob("*.png")) == ["2.png", "2.png"]
    assert "seed: 7" in (folder / "params.yaml").read_text()
    assert not Path("dvc.yaml").exists()


def test_trackio(tracked, tmp_path):
    tracked("trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio" / "cats.db") as base:
        rows = base.execute("select step, metrics from metrics where run_name = 'first' order by id").fetchall()
    rows = [(step, json.loads(values)) for step, values in rows]
    assert {step: values["train_loss"] for step, values in rows if "train_loss" in values} == LOSSES
    assert {step: values["eval_loss"] for step, values in rows if "eval_loss" in values} == EVALUATIONS
    assert len(list((tmp_path / "trackio" / "media" / "cats").rglob("*.png"))) == 2


def test_clearml(tracked, tmp_path):
    tracked("clearml", CLEARML_OFFLINE_MODE="1")
    (archive,) = (tmp_path / "home").rglob("offline*.zip")
    with zipfile.ZipFile(archive) as opened:
        task = json.loads(opened.read("task.json"))
        told = [event for line in opened.read("metrics.jsonl").splitlines() for event in json.loads(line)]
        pictures = [name for name in opened.namelist() if name.endswith((".png", ".jpg", ".jpeg"))]
    assert (task["project_name"], task["name"]) == ("cats", "first")
    assert "seed = 7" in task["configuration"]["General"]["value"]
    assert "script" not in task
    values = {(e["metric"], e["variant"], e["iter"]): e["value"] for e in told if "value" in e}
    assert {step: values["loss", "train", step] for step in LOSSES} == LOSSES
    assert {step: values["loss", "eval", step] for step in EVALUATIONS} == EVALUATIONS
    assert len(pictures) == 2


def test_comet_ml(tracked):
    tracked("comet_ml", COMET_START_ONLINE="0")
    (archive,) = LOGS.glob("*.zip")
    with zipfile.ZipFile(archive) as opened:
        messages = [json.loads(line) for line in opened.read("messages.json").splitlines()]
    metrics = [message["payload"]["metric"] for message in messages if message["type"] == "metric_msg"]
    values = {(metric["metricName"], metric["step"]): metric["metricValue"] for metric in metrics}
    assert {step: values["train_loss", step] for step in LOSSES} == LOSSES
    assert {step: values["eval_loss", step] for step in EVALUATIONS} == EVALUATIONS
    assert sum(message["type"] == "file_upload" for message in messages) == 2
    assert not any("cmd" in str(message) or "git" in str(message) for message in messages)


def test_swanlab(tracked):
    tracked("swanlab", SWANLAB_MODE="offline")
    (folder,) = (LOGS / "swanlog").glob("run-*")
    assert "seed" in (folder / "files" / "config.yaml").read_text()
    described = json.loads((folder / "files" / "swanlab-metadata.json").read_text())
    assert (described["runtime"], described["git"]) == (None, None)
    record = next(folder.glob("*.swanlab")).read_bytes()
    assert all(name in record for name in (b"train_loss", b"eval_loss", b"learning_rate", b"live/a cat"))
    assert len(list((folder / "media").rglob("*.png"))) >= 1
