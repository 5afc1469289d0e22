"""All that the page shows of a run, gathered from its files when it starts and from its events after that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tuner.events import Evaluated, RunEnded, RunStarted
from tuner.tracking.gallery.files import read_rows
from tuner.tracking.gallery.rounds import Round, read_rounds
from tuner.tracking.gallery.series import columns_of, rounded, row_of
from tuner.tracking.gallery.settings import read_settings, without_paths
from tuner.tracking.gallery.sheet import sheet_name
from tuner.tracking.journal import EVALUATIONS_FILE, METRICS_FILE
from tuner.tracking.summary import summarize

BASE = "base model"
"""Label of rounds and evaluations of the model as it was before the run."""


@dataclass
class RunRecord:
    """What is known of a run.

    Attributes:
        folder: The output folder.
        title: Name of the model family.
        origin: Where the result comes from, as exported files record it.
        last: Steps taken when the run is done.
        step: Steps known to be taken.
        state: "running", or how the run ended.
        reason: Why it failed.
        summary: What its evaluations say, once it has ended.
        rows: Metrics of the logged steps, in order.
        evaluations: (step, label) -> all that was found of these weights, in order.
        rounds: (step, label) -> pictures, in order.
        settings: The receipt, as `read_settings` returns it.
    """

    folder: Path
    title: str
    origin: Mapping[str, str]
    last: int
    step: int
    state: str = "running"
    reason: str = ""
    summary: str = ""
    rows: list[dict[str, float | None]] = field(default_factory=list)
    evaluations: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    rounds: dict[tuple[int, str], Round] = field(default_factory=dict)
    settings: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(cls, event: RunStarted) -> RunRecord:
        """Return the record of a run that starts, with what its earlier parts left; steps taken back are dropped.

        A run from step 0 has no earlier part, whatever lies in its folder.
        """
        origin = without_paths(dict(event.origin))
        record = cls(event.output_dir, event.facts.title, origin, event.last_step, event.first_step)
        record.settings = read_settings(event.output_dir)
        if not event.first_step:
            return record
        for row in read_rows(event.output_dir / METRICS_FILE, event.first_step):
            record.add_metrics(row["step"], row)
        for row in read_rows(event.output_dir / EVALUATIONS_FILE, event.first_step):
            if {"label", "metrics", "curves"} <= row.keys():
                record.add_evaluation(Evaluated(row["step"], row["label"], row["metrics"], row["curves"]))
        for each in read_rounds(event.output_dir, event.first_step):
            record.add_round(each)
        return record

    def add_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a logged step."""
        self.step = max(self.step, step)
        self.rows.append(row_of(step, values))

    def add_evaluation(self, event: Evaluated) -> None:
        """Add what an evaluation found; what it found of the same weights before, and does not name, stays."""
        self.step = max(self.step, event.step)
        empty: dict[str, Any] = {"step": event.step, "label": event.label, "metrics": {}, "curves": {}}
        entry = self.evaluations.setdefault((event.step, event.label), empty)
        entry["metrics"].update({name: rounded(value) for name, value in event.metrics.items()})
        entry["curves"].update(
            {name: [[rounded(x), rounded(y)] for x, y in points] for name, points in event.curves.items()}
        )

    def add_round(self, added: Round) -> None:
        """Add a round of pictures; it replaces an earlier one of the same weights."""
        self.step = max(self.step, added.step)
        self.rounds[added.key] = added

    def end(self, event: RunEnded) -> None:
        """Note how the run ended."""
        self.state, self.reason, self.step = event.outcome, event.reason, max(event.step, self.step)
        self.summary = summarize(self.folder) or ""

    def base_round(self) -> Round | None:
        """Return the base model's pictures, None where there are none."""
        return self.rounds.get((0, BASE))

    def as_json(self, now: datetime) -> dict[str, Any]:
        """Return what the page draws: JSON values alone, no absolute path, no secret."""
        rounds = sorted(self.rounds.values(), key=lambda each: (each.step, each.label != BASE))
        prompts: dict[str, str] = {}
        for each in rounds:
            prompts.update({nickname: each.prompts.get(nickname, "") for nickname in each.pictures})
        return {
            "title": self.title,
            "name": self.folder.resolve().name,
            "state": self.state,
            "reason": self.reason,
            "summary": self.summary,
            "step": self.step,
            "last": self.last,
            "written": now.isoformat(timespec="seconds"),
            "origin": dict(self.origin),
            "prompts": prompts,
            "rounds": [self._round_as_json(each) for each in rounds],
            "metrics": columns_of(self.rows),
            "evaluations": sorted(self.evaluations.values(), key=lambda entry: entry["step"]),
            "settings": self.settings,
        }

    def _round_as_json(self, shown: Round) -> dict[str, Any]:
        sheet = sheet_name(shown.step, shown.label)
        pictures = {
            nickname: [[picture.file, picture.width, picture.height] for picture in entries]
            for nickname, entries in shown.pictures.items()
        }
        there = (self.folder / sheet).is_file()
        return {"step": shown.step, "label": shown.label, "pictures": pictures, "sheet": sheet if there else None}
