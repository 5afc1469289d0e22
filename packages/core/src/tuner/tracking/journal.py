"""The run's own record: `metrics.jsonl`, an object per logged step, and `evaluations.jsonl`, one per evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.events import Evaluated, RunEnded, RunStarted, StepEnded

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"


def create(config: RunConfig) -> Journal:
    """Take part in every run."""
    return Journal()


class Journal:
    """Writes what a run measures. A resumed run drops the lines of steps that it takes again."""

    def __init__(self) -> None:
        self._metrics: TextIO | None = None
        self._evaluations: TextIO | None = None

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Open the files."""
        self._metrics = _reopened(event.output_dir / METRICS_FILE, event.first_step)
        self._evaluations = _reopened(event.output_dir / EVALUATIONS_FILE, event.first_step)

    @hookimpl
    def step_ended(self, event: StepEnded) -> None:
        """Write a line for a logged step."""
        if not event.logged:
            return
        metrics = {name: float(value) for name, value in event.metrics.items()}
        row = {"step": event.step, "loss": event.loss.item(), "learning_rate": event.learning_rate, **metrics}
        _append(self._metrics, row)

    @hookimpl
    def evaluated(self, event: Evaluated) -> None:
        """Write a line for an evaluation."""
        _append(self._evaluations, asdict(event))

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """Close the files."""
        for file in (self._metrics, self._evaluations):
            if file is not None:
                file.close()


def read_evaluations(folder: Path) -> list[Evaluated]:
    """Return the evaluations that a run has written into its output folder, in their order."""
    evaluations = []
    for row in _rows(folder / EVALUATIONS_FILE):
        curves = {name: tuple((x, y) for x, y in points) for name, points in row["curves"].items()}
        evaluations.append(Evaluated(row["step"], row["label"], row["metrics"], curves, row.get("basis", "")))
    return evaluations


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of the logged steps that a run has written into its output folder, in their order."""
    return [(row["step"], row["loss"]) for row in _rows(folder / METRICS_FILE)]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(path) if _step_of(line) < float("inf")]


def _reopened(path: Path, first_step: int) -> TextIO:
    """Open a file to append to it, without the lines of later steps; a fresh run keeps none."""
    kept = [line for line in _lines(path) if _step_of(line) <= first_step] if first_step else []
    scratch = path.with_suffix(".jsonl.tmp")
    scratch.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    scratch.replace(path)
    return path.open("a", encoding="utf-8")


def _append(file: TextIO | None, row: Mapping[str, Any]) -> None:
    if file is not None:
        file.write(json.dumps(row) + "\n")
        file.flush()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _step_of(line: str) -> float:
    """Return the step of a line; infinity for the torn last line of a killed run."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
