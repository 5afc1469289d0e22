"""What the end of a run says, on curves whose meaning is known."""

from dataclasses import replace

import pytest

from tuner.events import Evaluated, RunEnded, RunStarted
from tuner.tracking.journal import Journal
from tuner.tracking.summary import Summary
from tuner.tracking.verdict import describe_run, eval_loss_of


def curve(losses, base=1.0, label="live", basis="a"):
    """Evaluations after every 10 steps, and that of the base model."""
    events = [Evaluated(10 * number, label, {"eval_loss/a": loss}, {}, basis) for number, loss in enumerate(losses, 1)]
    return ([] if base is None else [Evaluated(0, "base model", {"eval_loss/a": base}, {}, basis)]) + events


def falling(steps):
    return [(step, 2.0 / step) for step in range(1, steps + 1)]


def test_nothing_evaluated_is_nothing_said():
    assert describe_run([], falling(10)) is None
    assert describe_run(curve([]), falling(10)) is None


def test_better_than_the_base_model():
    text = describe_run(curve([0.9, 0.8, 0.75]), falling(30), [10, 20, 30])
    assert text == (
        "Evaluation loss after step 30: 0.7500, better than the base model's 1.0000 by 25.0%. The best evaluated step "
        "is 30 with 0.7500. Its checkpoint is checkpoint-30. No sign of over-fitting: the loss ends 0.0% above its "
        "least value, and 2% would be one."
    )


def test_over_fitting_is_told_from_its_best_step_and_checkpoint():
    text = describe_run(curve([0.9, 0.8, 0.84, 0.96]), falling(40), [20, 40])
    assert "better than the base model's 1.0000 by 4.0%." in text
    assert "The best evaluated step is 20 with 0.8000. Its checkpoint is checkpoint-20." in text
    before = sum(2 / step for step in range(1, 21)) / 20
    after = sum(2 / step for step in range(21, 41)) / 20
    assert text.endswith(
        "It over-fits: since step 20 the evaluation loss has risen by 20.0%, while the training loss fell from "
        f"{before:.4f} to {after:.4f}."
    )


@pytest.mark.parametrize(("last", "over_fits"), [(0.815, False), (0.817, True)])
def test_a_rise_of_two_percent_is_one(last, over_fits):
    assert ("It over-fits" in describe_run(curve([0.9, 0.8, last]), falling(30))) == over_fits


def test_worse_with_a_training_loss_that_does_not_fall_is_no_over_fitting():
    rising = [(step, 0.1 * step) for step in range(1, 41)]
    text = describe_run(curve([0.9, 1.1, 1.3]), rising[:30], [30])
    assert "worse than the base model's 1.0000 by 30.0%." in text
    assert "No checkpoint of it was kept; of those that were, checkpoint-30 is best with 1.3000." in text
    # The 20 steps after step 10, and no more than the 10 up to it.
    assert "the training loss did not fall (0.5500, then 2.0500)" in text
    assert "does not over-fit: since step 10 the evaluation loss has risen by 44.4%" in text


def test_a_run_that_never_beats_the_base_model():
    text = describe_run(curve([1.2, 1.1, 1.15]), falling(30))
    assert "No evaluated step was better than the base model; step 20 comes nearest with 1.1000." in text
    assert "No checkpoint of an evaluated step was kept." in text


def test_half_a_percent_is_no_difference():
    assert "the same as the base model's 1.0000 (-0.4%)" in describe_run(curve([0.996]), [])
    assert "better than the base model's 1.0000 by 0.6%" in describe_run(curve([0.994]), [])


def test_few_evaluations_tell_no_over_fitting():
    assert "cannot be told from 2 evaluations." in describe_run(curve([0.8, 0.9]), falling(20))
    assert "too few training losses were logged" in describe_run(curve([0.8, 0.9, 1.0]), [])


def test_a_base_model_that_was_not_evaluated_is_said():
    assert "that of the base model is not known" in describe_run(curve([0.9], base=None), [])


def test_what_cannot_be_compared_is_left_out():
    text = describe_run([*curve([0.1, 0.2], base=5.0), *curve([0.9, 0.8, 0.7], base=1.0, basis="b")], falling(30))
    assert "0.7000, better than the base model's 1.0000 by 30.0%. The best evaluated step is 30" in text
    partly = Evaluated(5, "live", {"eval_loss/b": 0.1}, {}, "a")  # the loss of the other data set was not finite
    assert "The best evaluated step is 20 with 0.8000" in describe_run([partly, *curve([0.9, 0.8])], [])


def test_the_moving_average_is_told_beside():
    events = [*curve([0.9, 0.8, 0.7]), *curve([0.95, 0.9, 0.65], base=None, label="ema")]
    assert "The moving average has 0.6500 after step 30." in describe_run(events, falling(30))


def test_clip_scores_before_and_after():
    def scored(step, label, mean):
        return Evaluated(step, label, {"clip_score/mean": mean, "clip_score/min": 0.0}, {}, "c")

    events = [scored(0, "base model", 0.21), scored(10, "live", 0.25), scored(20, "live", 0.33)]
    assert describe_run(events, []) == "CLIP score: 0.2100 before, 0.3300 after step 20 (+0.1200)."
    assert describe_run(events[1:], []) == "CLIP score after step 20: 0.3300."
    average = [replace(event, label="ema") for event in events[1:]]
    assert describe_run([events[0], *average], []) == (
        "CLIP score of the moving average: 0.2100 before, 0.3300 after step 20 (+0.1200)."
    )
    both = describe_run([*curve([0.9, 0.8, 0.7]), *events], falling(30))
    assert "better than the base model" in both
    assert both.endswith("(+0.1200).")


def test_one_loss_stands_for_several_data_sets():
    assert eval_loss_of(Evaluated(1, "live", {"eval_loss/a": 1.0, "eval_loss/b": 2.0})) == 1.5
    assert eval_loss_of(Evaluated(1, "live", {"eval_loss/a": 1.0, "eval_loss/b": 2.0, "eval_loss/pooled": 1.2})) == 1.2
    assert eval_loss_of(Evaluated(1, "live", {"clip_score/mean": 0.3})) is None


@pytest.mark.parametrize("outcome", ["done", "interrupted", "failed"])
def test_it_is_written_from_what_the_journal_holds(tmp_path, outcome):
    (tmp_path / "checkpoint-20").mkdir()
    started = RunStarted(None, 0, 30, tmp_path, None)  # type: ignore[arg-type]  # neither reads the others
    journal, summary = Journal(), Summary()
    for extension in (journal, summary):
        extension.run_started(started)
    for event in curve([0.9, 0.8, 0.9]):
        journal.evaluated(event)
    summary.run_ended(RunEnded(30, outcome, None))
    written = tmp_path / "summary.txt"
    assert written.is_file() == (outcome != "failed")
    if outcome != "failed":
        text = " ".join(written.read_text().split())
        assert text == describe_run(curve([0.9, 0.8, 0.9]), [], [20])
        assert max(map(len, written.read_text().splitlines())) <= 100


@pytest.mark.parametrize("damage", ["no place", "no evaluations"])
def test_a_summary_that_cannot_be_made_harms_nobody(tmp_path, caplog, damage):
    journal, summary = Journal(), Summary()
    for extension in (journal, summary):
        extension.run_started(RunStarted(None, 0, 30, tmp_path, None))  # type: ignore[arg-type]
    for event in curve([0.9]):
        journal.evaluated(event)
    if damage == "no place":
        (tmp_path / "summary.txt").mkdir()
    else:
        (tmp_path / "evaluations.jsonl").write_text('{"step": 1}\n')
    summary.run_ended(RunEnded(30, "done", None))
    assert [record.levelname for record in caplog.records if record.levelname == "WARNING"] == ["WARNING"]
    assert not list(tmp_path.glob("*.tmp"))
