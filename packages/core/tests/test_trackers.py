"""Trackers: what is found before a run begins, and what a tracker that fails does to it."""

import logging
from typing import ClassVar, get_args

import pytest
import torch
import wandb
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image

from tuner.config.loading import load_config
from tuner.config.tracking import Tracker
from tuner.errors import TunerError
from tuner.events import Evaluated, ImagesValidated, RunEnded, RunStarted, StepEnded
from tuner.plugins import create_manager
from tuner.tracking import services, tensorboard, trackers
from tuner.tracking.service import Labels


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A machine on which nobody is logged in anywhere."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "COMET_API_KEY", "SWANLAB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    wandb.teardown()
    yield home
    wandb.teardown()


def config(write_config, **settings):
    return load_config(write_config(**settings)).config


def test_nothing_is_asked_for(write_config):
    assert trackers.create(config(write_config)) is None
    assert trackers.create(config(write_config, report_to="tensorboard")) is None
    assert tensorboard.create(config(write_config)) is None


@pytest.mark.parametrize("name", sorted(services.SERVICES.keys() - {"wandb"}))
def test_a_tracker_that_is_not_installed_is_named_with_the_remedy(write_config, name):
    with pytest.raises(TunerError, match=f"report_to is {name}, which is not installed\n    -> pip install '{name}>="):
        trackers.create(config(write_config, report_to=name))


def test_nobody_is_logged_in(write_config, nobody, monkeypatch, caplog):
    asked = config(write_config, report_to="wandb")
    with pytest.raises(TunerError, match="nobody is logged in\n    -> `wandb login`, or set WANDB_MODE=offline"):
        trackers.create(asked)
    assert trackers.create(config(write_config, report_to="all")) is None  # TensorBoard is left
    assert "report_to is all: wandb is left out, and nobody is logged in" in caplog.text
    (nobody / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {'a' * 40}\n")
    wandb.teardown()
    assert trackers.create(asked) is not None
    (nobody / ".netrc").unlink()
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    assert trackers.create(asked) is not None


def test_accelerate_knows_every_service():
    assert {"tensorboard", *services.SERVICES} == LOGGER_TYPE_TO_CLASS.keys()
    assert {"none", "all", *LOGGER_TYPE_TO_CLASS} == set(get_args(Tracker))


class Broken(GeneralTracker):
    """Fails at the second thing that it is told."""

    name = "wandb"
    requires_logging_directory = False
    main_process_only = False
    told: ClassVar[list[tuple[str, object]]] = []
    tracker_fails = ""

    def __init__(self, run_name, **options):
        super().__init__()
        self.told.clear()
        self.told.append((run_name, sorted(options)))

    @property
    def tracker(self):
        return None

    def start(self):
        if "start" in self.tracker_fails:
            raise RuntimeError("no server")

    def log(self, values, step=None, **_):
        self.told.append(("log", step))
        raise RuntimeError("the line is dead\nand more")

    def finish(self):
        self.told.append(("finish", None))


def events(folder):
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    return [
        ("run_started", RunStarted(None, 0, 4, folder, None, {}, {"seed": 1})),
        ("step_ended", StepEnded(1, torch.tensor(0.5), 1e-3, 2, {"norm": torch.tensor(2.0)}, True)),
        ("step_ended", StepEnded(2, torch.tensor(0.25), 1e-3, 2, {}, False)),
        (
            "images_validated",
            ImagesValidated(2, "live", {"cat": (folder / "p.png",)}, {"cat": "a cat"}, {"cat": (folder / "p.png",)}),
        ),
        ("evaluated", Evaluated(0, "base model", {"eval_loss": 0.75})),
        ("evaluated", Evaluated(2, "live", {"eval_loss": 0.25}, {"by_sigma": ((0.5, 0.25),)})),
        ("evaluated", Evaluated(2, "ema", {"eval_loss": 0.125})),
        ("run_ended", RunEnded(2, "done", None)),
    ]


def run(loaded, extension, folder):
    manager = create_manager(loaded.family, [extension])
    for name, event in events(folder):
        getattr(manager.hook, name)(event=event)


@pytest.mark.parametrize(
    ("fails", "told", "reason"),
    [
        ("log", [("log", 1), ("finish", None)], "the tracker wandb failed (RuntimeError: the line is dead)"),
        ("start", [], "the tracker wandb failed (RuntimeError: no server)"),
    ],
)
def test_a_tracker_that_fails_stops_nothing(write_config, tmp_path, monkeypatch, caplog, fails, told, reason):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    monkeypatch.setattr(Broken, "tracker_fails", fails)
    loaded = load_config(write_config(tracker_project_name="cats", tracker_run_name="first"))
    run(loaded, trackers.Trackers([trackers.Tracker("wandb", Labels("cats", "first", tmp_path / "logs"))]), tmp_path)
    assert Broken.told == [("cats", ["dir", "name", "settings"]), *told]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"{reason}\n    -> the run goes on without it"]


@pytest.mark.parametrize("kind", ["tensorboard", "service"])
def test_a_picture_that_is_gone_stops_nothing(write_config, tmp_path, monkeypatch, caplog, kind):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    loaded = load_config(write_config(report_to="tensorboard", output_dir=str(tmp_path)))
    tracker = trackers.Tracker("wandb", Labels("cats", "first", tmp_path / "logs"))
    extension = tensorboard.create(loaded.config) if kind == "tensorboard" else trackers.Trackers([tracker])
    manager = create_manager(loaded.family, [extension])
    manager.hook.run_started(event=events(tmp_path)[0][1])
    gone = {"cat": (tmp_path / "gone.png",)}
    manager.hook.images_validated(event=ImagesValidated(1, "live", gone, {}, gone))
    manager.hook.run_ended(event=RunEnded(1, "done", None))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "FileNotFoundError" in warning


def test_tensorboard_gets_evaluations_and_pictures(write_config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loaded = load_config(write_config(report_to="tensorboard", tracker_run_name="first", output_dir=str(tmp_path)))
    run(loaded, tensorboard.create(loaded.config), tmp_path)
    written = EventAccumulator(str(tmp_path / "logs" / "first")).Reload()
    values = {
        name: [(event.step, event.value) for event in written.Scalars(name)] for name in written.Tags()["scalars"]
    }
    assert values.pop("learning_rate") == [(1, pytest.approx(1e-3))]
    assert values == {
        "train_loss": [(1, 0.5)],
        "norm": [(1, 2.0)],
        "eval_loss": [(0, 0.75), (2, 0.25)],
        "ema/eval_loss": [(2, 0.125)],
    }
    assert written.Tags()["images"] == ["cat/0"]


@pytest.mark.parametrize(("name", "folder"), [("..", "_"), ("cats: 1/2", "cats_ 1_2"), ("/etc", "_etc")])
def test_the_name_of_a_run_is_no_path(write_config, tmp_path, name, folder):
    loaded = load_config(write_config(report_to="tensorboard", tracker_run_name=name, output_dir=str(tmp_path / "out")))
    run(loaded, tensorboard.create(loaded.config), tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["logs"]
    assert [path.name for path in (tmp_path / "out" / "logs").iterdir()] == [folder]


def test_a_full_disk_ends_tensorboard_and_nothing_else(write_config, tmp_path, caplog):
    loaded = load_config(write_config(report_to="tensorboard", tracker_run_name="first", output_dir=str(tmp_path)))
    (tmp_path / "logs").write_text("in the way")
    run(loaded, tensorboard.create(loaded.config), tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("TensorBoard failed (")


def test_labels_that_nobody_reads_are_reported(write_config):
    labels = {"tracker_project_name": "cats", "tracker_run_name": "first"}
    assert set(load_config(write_config(**labels)).unread) == set(labels)
    assert set(load_config(write_config(**labels, report_to="tensorboard")).unread) == {"tracker_project_name"}
    assert not load_config(write_config(**labels, report_to="wandb")).unread
