"""The run's own record: one JSON object per logged step in `metrics.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.events import RunEnded, RunStarted, StepEnded

FILE_NAME = "metrics.jsonl"


def create(config: RunConfig) -> Journal:
    """Take part in every run."""
    return Journal()


class Journal:
    """Writes losses and learning rates. A resumed run drops the lines of steps that it takes again."""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Open the file."""
        path = event.output_dir / FILE_NAME
        kept = [line for line in _lines(path) if _step_of(line) <= event.first_step]
        scratch = path.with_suffix(".jsonl.tmp")
        scratch.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        scratch.replace(path)
        self._file = path.open("a", encoding="utf-8")

    @hookimpl
    def step_ended(self, event: StepEnded) -> None:
        """Write a line for a logged step."""
        if self._file is None or not event.logged:
            return
        metrics = {name: float(value) for name, value in event.metrics.items()}
        row = {"step": event.step, "loss": event.loss.item(), "learning_rate": event.learning_rate, **metrics}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _step_of(line: str) -> float:
    """Return the step of a line; infinity for the torn last line of a killed run."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
