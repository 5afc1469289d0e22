"""What a run writes down of itself."""

import json
from pathlib import Path

import torch

from tuner.events import Evaluated, RunEnded, RunStarted, StepEnded
from tuner.tracking.journal import Journal, read_evaluations, read_losses


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def started(folder: Path, first_step: int) -> RunStarted:
    return RunStarted(None, first_step, 10, folder, None)  # type: ignore[arg-type]  # the journal reads neither


def test_steps_and_evaluations_are_written_and_taken_back_on_resume(tmp_path):
    journal = Journal()
    journal.run_started(started(tmp_path, 0))
    evaluated = [Evaluated(0, "base model", {"eval_loss": 2.0}, {"eval_loss_by_sigma": ((0.5, 2.0),)})]
    journal.evaluated(evaluated[0])
    for step in range(1, 5):
        journal.step_ended(
            StepEnded(step, torch.tensor(1.0 / step), 0.1, 1, {"norm": torch.tensor(2.0)}, step % 2 == 0)
        )
    journal.evaluated(Evaluated(4, "live", {"eval_loss": 1.5}))
    journal.run_ended(RunEnded(4, "interrupted", None))
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [2, 4]
    assert rows(tmp_path / "metrics.jsonl")[1] == {"step": 4, "loss": 0.25, "learning_rate": 0.1, "norm": 2.0}
    assert rows(tmp_path / "evaluations.jsonl") == [
        {
            "step": 0,
            "label": "base model",
            "metrics": {"eval_loss": 2.0},
            "curves": {"eval_loss_by_sigma": [[0.5, 2.0]]},
            "basis": "",
        },
        {"step": 4, "label": "live", "metrics": {"eval_loss": 1.5}, "curves": {}, "basis": ""},
    ]
    assert read_evaluations(tmp_path)[0] == evaluated[0]
    assert read_losses(tmp_path) == [(2, 0.5), (4, 0.25)]

    resumed = Journal()
    resumed.run_started(started(tmp_path, 3))
    resumed.step_ended(StepEnded(4, torch.tensor(0.5), 0.1, 1, {}, True))
    resumed.run_ended(RunEnded(4, "done", None))
    assert [(row["step"], row["loss"]) for row in rows(tmp_path / "metrics.jsonl")] == [(2, 0.5), (4, 0.5)]
    assert [row["step"] for row in rows(tmp_path / "evaluations.jsonl")] == [0]


def test_a_fresh_run_keeps_nothing_of_an_earlier_one(tmp_path):
    for _ in range(2):
        journal = Journal()
        journal.run_started(started(tmp_path, 0))
        journal.evaluated(Evaluated(0, "base model", {"eval_loss": 2.0}))
        journal.run_ended(RunEnded(0, "failed", None))
    assert len(read_evaluations(tmp_path)) == 1


def test_a_torn_line_is_passed_over(tmp_path):
    (tmp_path / "evaluations.jsonl").write_text('{"step": 1, "label": "live", "metrics": {}, "curves": {}}\n{"step": 2')
    assert read_evaluations(tmp_path) == [Evaluated(1, "live", {})]
    assert read_losses(tmp_path) == []
