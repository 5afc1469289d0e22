"""The run's own record: `metrics.jsonl`, an object per logged step, and `evaluations.jsonl`, one per evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        row = {"step": event.step, "label": event.label, "metrics": event.metrics, "curves": event.curves}
        _append(self._evaluations, row)

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """Close the files."""
        for file in (self._metrics, self._evaluations):
            if file is not None:
                file.close()


def _reopened(path: Path, first_step: int) -> TextIO:
    """Open a file to append to it, without the lines of later steps."""
    kept = [line for line in _lines(path) if _step_of(line) <= first_step]
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
