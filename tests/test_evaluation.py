"""The loss on data that is not trained on: its numbers, and that training does not notice it."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tuner.cli.main import main
from tuner.config.loading import load_config
from tuner.errors import ConfigError
from tuner.events import RunEnded, RunStarted
from tuner.flow import AutoShift, SigmaSchedule
from tuner.randomness import normal_tensor
from tuner.tracking.summary import Summary
from tuner.training.evaluation import LossRounds, sigma_grid
from tuner.training.interruption import StopRequest
from tuner.training.run import prepare_run, train
from tuner.types import Prediction

HELD_OUT = {"near": ("coffee", "rocket", "chelsea"), "far": ("hubble_deep_field",)}
EVALUATED = {"eval_steps_interval": 2, "eval_timesteps": 3, "log_interval": 1, "cache_dir": "cache"}


@pytest.fixture
def evaluated(project, photographs):
    """Write a project with data to evaluate with, which is no part of what it trains on."""

    def write(held_out=HELD_OUT, entry=None, **settings):
        for path in photographs.iterdir():
            folders = [name for name, stems in HELD_OUT.items() if path.stem in stems]
            target = Path(folders[0] if folders else "trained")
            target.mkdir(exist_ok=True)
            shutil.copy(path, target)
        config = project(dataset={"instance_data_dir": "trained"}, **{**EVALUATED, **settings})
        (trained,) = json.loads(Path("multidatabackend.json").read_text())
        added = [
            {**trained, "id": name, "dataset_type": "eval", "instance_data_dir": name, **(entry or {})}
            for name in held_out
        ]
        Path("multidatabackend.json").write_text(json.dumps([trained, *added]))
        return config

    return write


class Recorder:
    """Stands for the hooks of a run: a network of our own, and the events."""

    def __init__(self, velocity):
        self.compute_loss = lambda components, batch: Prediction(velocity(batch))
        self.events = []

    def evaluated(self, event):
        self.events.append(event)


def rounds(run, velocity=None):
    """What evaluates, with a network of our own if one is given; and where its events go."""
    session, hook = run.session, Recorder(velocity)
    if velocity is None:
        hook.compute_loss = session.hook.compute_loss
    return LossRounds(replace(session, hook=hook), run.learner, run.data, run.source), hook.events


def prepared(config):
    return prepare_run(load_config(config), StopRequest())


def rows(folder="output"):
    return [json.loads(line) for line in Path(folder, "evaluations.jsonl").read_text().splitlines()]


def weights(run):
    return {name: tensor.clone() for name, tensor in run.learner.trainable.state().items()}


def test_the_grid_is_the_middles_of_equal_parts_shifted():
    assert sigma_grid(4, SigmaSchedule(), 64) == [0.125, 0.375, 0.625, 0.875]
    shifted = sigma_grid(4, SigmaSchedule(shift=3.0), 64)
    assert shifted == pytest.approx([3 * u / (1 + 2 * u) for u in (0.125, 0.375, 0.625, 0.875)])
    auto = AutoShift()
    assert sigma_grid(1, SigmaSchedule(shift=3.0, auto_shift=auto), 4096)[0] == pytest.approx(
        np.exp(1.15) / (1 + np.exp(1.15))
    )


def test_a_network_that_knows_the_velocity_has_no_loss_and_one_that_says_zero_that_of_the_target(evaluated):
    run = prepared(evaluated())
    true, events = rounds(run, lambda batch: batch.target)
    true.make(1)
    assert set(events[0].metrics.values()) == {0.0}

    zero, events = rounds(run, lambda batch: torch.zeros_like(batch.x))
    zero.make(1)
    (event,) = events
    for dataset, stems in HELD_OUT.items():
        samples = [sample for sample in true._samples() if sample.dataset == dataset]
        assert {sample.path.stem for sample in samples} == set(stems)
        by_level = []
        for level in range(3):
            losses = []
            for sample in samples:
                x0 = run.data.latents.read(sample).double().numpy()
                noise = normal_tensor(x0.shape, 42, "evaluation", level, sample.key).double().numpy()
                losses.append(((noise - x0) ** 2).mean())
            by_level.append(np.mean(losses))
        assert event.metrics[f"eval_loss/{dataset}"] == pytest.approx(np.mean(by_level), rel=1e-6)
        assert [y for _, y in event.curves[f"eval_loss_by_sigma/{dataset}"]] == pytest.approx(by_level, rel=1e-6)


def test_x_is_mixed_at_the_sigma_that_the_network_is_told(evaluated):
    """The velocity that leads from x at sigma to the clean latent is the true one only if both belong together."""
    run = prepared(evaluated(held_out=["far"]))
    (sample,) = rounds(run)[0]._samples()
    x0 = run.data.latents.read(sample)
    knows, events = rounds(run, lambda batch: (batch.x - x0) / batch.sigma.view(-1, 1, 1, 1))
    knows.make(1)
    (event,) = events
    assert event.metrics["eval_loss/far"] < 1e-10
    schedule = run.source.schedule
    sigmas = [x for x, _ in event.curves["eval_loss_by_sigma/far"]]
    assert sigmas == pytest.approx(sigma_grid(3, schedule, x0.shape[-1] * x0.shape[-2]))


def test_equal_weights_give_the_identical_number_and_nothing_is_changed(evaluated):
    run = prepared(evaluated())
    before, state = weights(run), torch.random.get_rng_state()
    live, events = rounds(run)
    live.make(1)
    live.make(2)
    assert events[0].metrics == events[1].metrics
    assert events[0].curves == events[1].curves
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run).items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert run.learner.components.denoiser.training
    with torch.no_grad():
        for _, parameter in run.learner.trainable.named_parameters():
            parameter.add_(0.1)
    live.make(3)
    assert events[2].metrics != events[0].metrics


@pytest.fixture
def whole(evaluated):
    """A run with evaluations, moving average included, and the same one without."""
    told = {"eval_dataset_pooling": True, "report_to": "tensorboard"}
    train(load_config(evaluated(use_ema=True, **told, output_dir="with", max_train_steps=5)))
    settings = {"eval_steps_interval": 0, "output_dir": "without", "max_train_steps": 5}
    train(load_config(evaluated(use_ema=True, **settings)))


def test_a_run_evaluates_base_live_and_average_and_trains_as_it_would_without(whole, weights):
    assert [(row["step"], row["label"]) for row in rows("with")] == [
        (0, "base model"), (2, "live"), (2, "ema"), (4, "live"), (4, "ema"), (5, "live"), (5, "ema"),
    ]  # fmt: skip
    base = rows("with")[0]
    assert base["metrics"].keys() == {"eval_loss/near", "eval_loss/far", "eval_loss/pooled"}
    near, far = base["metrics"]["eval_loss/near"], base["metrics"]["eval_loss/far"]
    assert base["metrics"]["eval_loss/pooled"] == pytest.approx((3 * near + far) / 4, rel=1e-12)
    for name in ("near", "far"):
        curve = base["curves"][f"eval_loss_by_sigma/{name}"]
        assert len(curve) == 3
        assert np.mean([y for _, y in curve]) == pytest.approx(base["metrics"][f"eval_loss/{name}"])
    assert len({row["basis"] for row in rows("with")}) == 1
    assert len({row["metrics"]["eval_loss/near"] for row in rows("with")}) == 7
    assert Path("with/metrics.jsonl").read_bytes() == Path("without/metrics.jsonl").read_bytes()
    for name in ("pytorch_lora_weights.safetensors", "checkpoint-5/optimizer.safetensors"):
        assert weights(Path("with", name)) == weights(Path("without", name))
    assert not Path("without/evaluations.jsonl").read_text()


def test_trackers_and_the_end_say_what_the_run_has_measured(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    base, live, average = (
        next(row["metrics"]["eval_loss/pooled"] for row in reversed(rows("with")) if row["label"] == label)
        for label in ("base model", "live", "ema")
    )
    summary = Summary()
    summary.run_started(RunStarted(None, 0, 5, Path("with"), None))
    summary.run_ended(RunEnded(5, "done", None))
    text = " ".join(Path("with/summary.txt").read_text().split())
    assert f"Evaluation loss after step 5: {live:.4f}, " in text
    assert f"the base model's {base:.4f}" in text
    assert f"{abs(live / base - 1):.1%}" in text
    assert f"The moving average has {average:.4f} after step 5." in text
    assert "checkpoint-5" in text
    events = EventAccumulator("with/logs/simpletuner-testing").Reload()
    for name, index, step, value in [("", 0, 0, base), ("", -1, 5, live), ("ema/", -1, 5, average)]:
        found = events.Scalars(f"{name}eval_loss/pooled")[index]
        assert (found.step, found.value) == (step, pytest.approx(value, rel=1e-6))


def test_pictures_to_evaluate_with_are_never_trained_on(evaluated):
    run = prepared(evaluated(max_train_steps=40))
    assert {sample.dataset for sample in rounds(run)[0]._samples()} == {"near", "far"}
    drawn = {key for step in range(40) for batch in run.source.step(step) for key in batch.keys}
    assert {key.split("/")[0] for key in drawn} == {"photographs"}


def test_only_the_first_pictures_are_evaluated_and_cached(evaluated, capsys):
    config = str(evaluated(num_eval_images=2))
    assert main(["cache", config]) == 0
    capsys.readouterr()
    assert main(["cache", "stat", config, "--json"]) == 0
    kept = {Path(row["folder"]).name: row for row in json.loads(capsys.readouterr().out)["folders"]}
    # 2 trained on, 2 of 3 and 1 to evaluate with; captions: 2 each, 1 each, and none.
    for name, count in {"latents": 5, "text": 8}.items():
        assert (kept[name]["needed"], kept[name]["present"], kept[name]["entries"]["count"]) == (count, count, count)
    names = {sample.path.stem for sample in rounds(prepared(Path(config)))[0]._samples()}
    assert names == {"chelsea", "coffee", "hubble_deep_field"}


def test_a_damaged_picture_gives_its_place_to_the_next(evaluated):
    config = evaluated(num_eval_images=2)
    whole = Path("near/chelsea.png").read_bytes()
    Path("near/chelsea.png").write_bytes(whole[: len(whole) // 2])
    names = {sample.path.stem for sample in rounds(prepared(config))[0]._samples()}
    assert names == {"coffee", "rocket", "hubble_deep_field"}


def test_an_epoch_is_a_unit_of_the_interval_too(evaluated):
    run = prepared(evaluated(eval_steps_interval=None, eval_epoch_interval=1, train_batch_size=1))
    due = {}
    for epochs in (0.5, 1.0, 1.5):
        evaluation = run.session.config.evaluation.model_copy(update={"eval_epoch_interval": epochs})
        config = run.session.config.model_copy(update={"evaluation": evaluation})
        session = replace(run.session, loaded=replace(run.session.loaded, config=config))
        due[epochs] = [
            step for step in range(1, 9) if LossRounds(session, run.learner, run.data, run.source).is_due(step, 99)
        ]
    # Two pictures in batches of one: two steps per epoch.
    assert due == {0.5: [1, 2, 3, 4, 5, 6, 7, 8], 1.0: [2, 4, 6, 8], 1.5: [3, 6]}


def test_the_baseline_stays_when_resuming_and_other_levels_have_one_of_their_own(evaluated):
    train(load_config(evaluated(max_train_steps=2)))
    before = rows()
    train(load_config(evaluated(max_train_steps=4)))
    assert rows()[: len(before)] == before
    assert [row["step"] for row in rows() if row["label"] == "base model"] == [0]

    train(load_config(evaluated(max_train_steps=6, eval_timesteps=2)))
    bases = [row for row in rows() if row["label"] == "base model"]
    assert [len(row["curves"]["eval_loss_by_sigma/far"]) for row in bases] == [3, 2]
    assert bases[0]["basis"] != bases[1]["basis"] == rows()[-1]["basis"]


def test_a_full_tune_evaluates_the_base_model_anew_when_its_loss_is_missing(evaluated):
    full = {"model_type": "full", "checkpoint_step_interval": 2}
    train(load_config(evaluated(**full, max_train_steps=2)))
    base, tuned = rows()
    Path("output/evaluations.jsonl").unlink()
    train(load_config(evaluated(**full, max_train_steps=3)))
    again, later = rows()
    # Weights that were loaded anew lie elsewhere in memory, which may change how sums are rounded.
    assert again["metrics"] == pytest.approx(base["metrics"], rel=1e-6)
    assert again["basis"] == base["basis"]
    assert tuned["metrics"] != pytest.approx(base["metrics"], rel=1e-3)
    assert (later["step"], later["label"]) == (3, "live")
    assert later["metrics"] != pytest.approx(base["metrics"], rel=1e-3)


def test_an_interval_without_data_gives_one_line(evaluated, caplog):
    caplog.set_level(logging.INFO, logger="tuner")
    loaded = load_config(evaluated(held_out=[], max_train_steps=1))
    assert loaded.unread["eval_steps_interval"] == "no data set has dataset_type eval"
    train(loaded)
    (line,) = [record for record in caplog.records if "dataset_type eval" in record.message]
    assert line.levelname == "INFO"


def test_the_receipt_says_what_is_not_evaluated(evaluated):
    silent = load_config(evaluated(eval_steps_interval=None)).unread
    reason = "neither eval_steps_interval nor eval_epoch_interval is given"
    assert silent["dataset_type eval"] == f"{reason}: near, far is checked, but not evaluated"
    assert silent["eval_timesteps"] == reason
    off = load_config(evaluated(eval_loss_disable=True)).unread
    assert off["eval_steps_interval"] == off["eval_timesteps"] == "eval_loss_disable is True"
    assert not [key for key in load_config(evaluated()).unread if "eval" in key]
    spare = load_config(evaluated(entry={"repeats": 3, "is_regularisation_data": True})).unread
    assert {key for key in spare if key.startswith("far")} == {"far: repeats", "far: is_regularisation_data"}


def test_a_data_set_cannot_have_the_name_of_all_together(evaluated):
    Path("pooled").mkdir()
    with pytest.raises(ConfigError, match=r"eval_dataset_pooling: .*'pooled'"):
        load_config(evaluated(held_out=["pooled"], eval_dataset_pooling=True))


def test_the_loss_can_be_left_out(evaluated):
    train(load_config(evaluated(eval_loss_disable=True, max_train_steps=2)))
    assert not rows()


def test_nothing_is_dropped_and_the_first_caption_is_taken(evaluated):
    run = prepared(evaluated(caption_dropout_probability=1.0))
    plain = prepared(evaluated(caption_dropout_probability=0.0))
    (one, first), (two, second) = rounds(run), rounds(plain)
    one.make(1)
    two.make(1)
    assert first[0].metrics == second[0].metrics
    assert {sample.captions for sample in one._samples()} == {
        (f"a photograph of {stem}",) for stems in HELD_OUT.values() for stem in stems
    }


def test_pictures_encoded_on_demand_give_the_same_loss(evaluated):
    values = []
    for settings in ({}, {"vae_cache_disable": True}):
        evaluate, events = rounds(prepared(evaluated(entry=settings, cache_dir=f"cache{len(values)}")))
        evaluate.make(1)
        values.append(events[0].metrics)
    assert values[0] == pytest.approx(values[1], rel=1e-5)  # the codec had others in its batch


def test_logged_steps_report_the_loss_by_noise_level_since_the_last_one(evaluated):
    config = evaluated(held_out=[], log_interval=3, max_train_steps=6, eval_steps_interval=None)
    train(load_config(config))
    logged = [json.loads(line) for line in Path("output/metrics.jsonl").read_text().splitlines()]
    run = prepared(config)
    for row, steps in zip(logged, [(0,), (1, 2), (3, 4, 5)], strict=True):
        sigmas = torch.cat([batch.sigma for step in steps for batch in run.source.step(step)]).tolist()
        bins = {name.removeprefix("loss_by_sigma/") for name in row if name.startswith("loss_by_sigma/")}
        assert bins == {f"{int(sigma * 10) / 10:.1f}-{int(sigma * 10 + 1) / 10:.1f}" for sigma in sigmas}
    counts = np.bincount([int(sigma * 10) for sigma in run.source.step(0)[0].sigma.tolist()], minlength=10)
    first = [logged[0].get(f"loss_by_sigma/{n / 10:.1f}-{(n + 1) / 10:.1f}", 0.0) for n in range(10)]
    assert np.dot(counts, first) / counts.sum() == pytest.approx(logged[0]["loss"], rel=1e-6)
