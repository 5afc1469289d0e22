"""Trackers that are services, such as Weights & Biases and MLflow, by way of accelerate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.errors import TunerError
from tuner.events import Evaluated, ImagesValidated, RunEnded, RunStarted, StepEnded
from tuner.tracking.forgiving import Forgiving
from tuner.tracking.labels import labelled
from tuner.tracking.service import Labels
from tuner.tracking.services import SERVICES
from tuner.tracking.tensorboard import is_installed as has_tensorboard

logger = logging.getLogger(__name__)


def create(config: RunConfig) -> Trackers | None:
    """Take part where report_to asks for a service.

    Raises:
        TunerError: The service is not installed, or nobody is logged in; of `all` there is none.
    """
    asked = config.tracking.report_to
    if asked == "all":
        names = _usable()
        if not names and not has_tensorboard():
            raise TunerError(
                "report_to is all, and no tracker can be used\n    -> pip install 'tuner-core[tensorboard]'"
            )
    elif asked in SERVICES:
        if obstacle := _obstacle(asked):
            raise TunerError(f"report_to is {asked}, {obstacle}")
        names = [asked]
    else:
        names = []
    folder = config.model.output_dir / "logs"
    labels = Labels(config.tracking.tracker_project_name, config.tracking.tracker_run_name, folder)
    return Trackers([Tracker(name, labels) for name in names]) if names else None


def _usable() -> list[str]:
    names = []
    for name, service in SERVICES.items():
        if not service.is_installed:
            continue
        if obstacle := _obstacle(name):
            logger.warning("report_to is all: %s is left out, %s", name, obstacle)
        else:
            names.append(name)
    return names


def _obstacle(name: str) -> str | None:
    """Return why a service cannot be used, and what to do."""
    service = SERVICES[name]
    if not service.is_installed:
        return f"which is not installed\n    -> pip install {service.install}"
    if not service.has_account():
        return f"and nobody is logged in\n    -> {service.login}"
    return None


class Tracker:
    """A service, through accelerate's class for it. Once it has failed, it is left alone.

    Args:
        name: accelerate's name of it.
        labels: What the run is called there.
    """

    def __init__(self, name: str, labels: Labels) -> None:
        self.name = name
        self._service, self._labels = SERVICES[name], labels
        self._tracker: Any = None
        self._attempt = Forgiving(f"the tracker {name}")

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin a run with its settings."""
        self._attempt(lambda: self._start(settings))

    def _start(self, settings: Mapping[str, Any]) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self._labels.folder.mkdir(parents=True, exist_ok=True)
        tracker = LOGGER_TYPE_TO_CLASS[self.name](**self._service.arguments(self._labels))
        tracker.start()
        self._tracker = tracker
        tracker.store_init_configuration(dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars."""
        self._attempt(lambda: self._tracker.log(dict(values), step=step))

    def log_pictures(self, files: Mapping[str, tuple[Path, ...]], step: int) -> None:
        """Log pictures by name."""
        self._attempt(lambda: self._log_pictures(files, step))

    def _log_pictures(self, files: Mapping[str, tuple[Path, ...]], step: int) -> None:
        pictures = {name: [_opened(file) for file in group] for name, group in files.items() if group}
        self._service.log_pictures(self._tracker, pictures, step)

    def log_curve(self, name: str, points: tuple[tuple[float, float], ...], step: int) -> None:
        """Log a table of points, where the service has tables."""
        if hasattr(self._tracker, "log_table"):
            rows = [list(point) for point in points]
            self._attempt(lambda: self._tracker.log_table(name, ["x", "y"], rows, step=step))

    def finish(self) -> None:
        """End the run."""
        if self._tracker is not None:
            Forgiving(f"ending the tracker {self.name}")(self._tracker.finish)


def _opened(file: Path) -> Any:
    from PIL import Image

    with Image.open(file) as picture:
        return picture.convert("RGB")


class Trackers:
    """Tells services what happens."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Begin a run of each."""
        for tracker in self._trackers:
            tracker.start(event.settings)

    @hookimpl
    def step_ended(self, event: StepEnded) -> None:
        """Log the scalars of a logged step."""
        if not event.logged:
            return
        values = {"train_loss": event.loss.item(), "learning_rate": event.learning_rate}
        values |= {name: float(value) for name, value in event.metrics.items()}
        for tracker in self._trackers:
            tracker.log(values, event.step)

    @hookimpl
    def images_validated(self, event: ImagesValidated) -> None:
        """Log the pictures."""
        for tracker in self._trackers:
            tracker.log_pictures({f"{event.label}/{name}": files for name, files in event.files.items()}, event.step)

    @hookimpl
    def evaluated(self, event: Evaluated) -> None:
        """Log the values, and the curves as tables."""
        for tracker in self._trackers:
            tracker.log({labelled(name, event.label): value for name, value in event.metrics.items()}, event.step)
            for name, points in event.curves.items():
                tracker.log_curve(labelled(name, event.label), points, event.step)

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """End the runs."""
        for tracker in self._trackers:
            tracker.finish()
