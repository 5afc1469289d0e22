"""The rehearsal finds out before step 1 what would fail late, and changes nothing of the run."""

import gc
import json
import logging
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tuner.config.loading import load_config
from tuner.errors import CheckpointError
from tuner.training import run as run_module
from tuner.training import step as step_module
from tuner.training.interruption import StopRequest
from tuner.training.memory_errors import OutOfMemoryError
from tuner.training.persistence import hold_state
from tuner.training.rehearsal import SHORTEST, largest_bucket
from tuner.training.run import prepare_run, train

# With the default seed a run's first batch is of the smaller bucket, so the larger one is rehearsed.
PICTURES = {
    "validation_prompt": "a cat",
    "validation_step_interval": 1000,
    "validation_resolution": "128,192x128",
    "validation_num_inference_steps": 3,
    "validation_guidance": 3.0,
    "disable_benchmark": True,
}


@pytest.fixture
def rehearsals(caplog):
    """How many rehearsals the log tells of."""
    caplog.set_level(logging.INFO, logger="tuner")
    return lambda: [line for line in caplog.messages if line.startswith("rehearsed a checkpoint")]


@pytest.mark.parametrize("kind", [
    {"lora_type": "standard", "lora_dropout": 0.3}, {"model_type": "full", "use_ema": True, **PICTURES},
])  # fmt: skip
def test_a_rehearsed_run_is_the_same_run(project, monkeypatch, rehearsals, kind):
    """Weights, optimizer and moving average after 20 steps are those of a run without a rehearsal, bit for bit."""
    settings = {"max_train_steps": SHORTEST, **kind}
    train(load_config(project(**settings, output_dir="rehearsed")))
    assert len(rehearsals()) == 1
    monkeypatch.setattr(run_module, "SHORTEST", SHORTEST + 1)
    train(load_config(project(**settings, output_dir="plain")))
    assert len(rehearsals()) == 1
    ours, plain = (
        json.loads(Path(f"{name}/checkpoint-{SHORTEST}/manifest.json").read_text()) for name in ("rehearsed", "plain")
    )
    del ours["training_state.json"], plain["training_state.json"]  # they hold the name of the folder
    assert ours == plain
    assert "optimizer.safetensors" in ours


def test_nothing_is_left_of_it(project, rehearsals):
    config = project(max_train_steps=SHORTEST, lora_type="standard", lora_dropout=0.5, **PICTURES)
    run = prepare_run(load_config(config), StopRequest())
    Path("output").mkdir()
    Path("output/mine.txt").write_text("")
    random = torch.random.get_rng_state()
    run._rehearsal().run(with_picture=True)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [path.name for path in Path("output").iterdir()] == ["mine.txt"]
    assert all(parameter.grad is None for _, parameter in run.learner.trainable.named_parameters())
    assert not run.learner.optimizer.state
    assert "a checkpoint, the largest batch (photographs/192x192), a picture" in rehearsals()[0]
    run.data.latents.close()


def test_the_largest_batch_is_the_one_that_is_rehearsed(project, monkeypatch):
    run = prepare_run(load_config(project(max_train_steps=SHORTEST, train_batch_size=3)), StopRequest())
    largest = largest_bucket(run.data.plan)
    sizes = {
        bucket.id: bucket.size[0] * bucket.size[1] * min(3, len(bucket.samples)) for bucket in run.data.plan.buckets
    }
    assert sizes[largest.id] == max(sizes.values())
    assert len(sizes) > 1
    seen = []
    original = step_module.sample_losses
    monkeypatch.setattr(
        step_module, "sample_losses", lambda *given: seen.append(tuple(given[1].x.shape)) or original(*given)
    )
    run._rehearsal().run(with_picture=False)
    width, height = largest.size
    assert seen == [(3, 32, height // 32, width // 32)]
    run.data.latents.close()


@pytest.mark.parametrize(("optimizer", "each"), [("optimi-adamw", 8), ("optimi-lion", 4)])
def test_the_memory_of_the_optimizers_state_is_set_aside(project, monkeypatch, optimizer, each):
    """What the largest batch must fit beside comes with the first step; a resumed run has it already."""
    config = project(max_train_steps=SHORTEST, model_type="full", optimizer=optimizer)
    run = prepare_run(load_config(config), StopRequest())
    weights = sum(parameter.numel() for _, parameter in run.learner.trainable.named_parameters())
    random, held = torch.random.get_rng_state(), []  # such states are bytes too

    def count(*_):
        found = [item for item in gc.get_objects() if type(item) is torch.Tensor and item.dtype == torch.uint8]
        held.append(sum(item.nbytes for item in found if item.shape != random.shape))
        return losses(*_)

    losses = step_module.sample_losses
    monkeypatch.setattr(step_module, "sample_losses", count)
    Path("output").mkdir()
    run._rehearsal().run(with_picture=False)
    next(iter(run.loop(torch.Tensor.backward).run(0, 1)))
    state = [value for values in run.learner.optimizer.state.values() for value in values.values()]
    kept = sum(value.nbytes for value in state if isinstance(value, torch.Tensor))
    assert held[0] == pytest.approx(kept, rel=0.01)
    assert held[0] == pytest.approx(each * weights, rel=0.01)
    run._rehearsal().run(with_picture=False)
    assert held[1:] == [0, 0]
    run.data.latents.close()


def test_a_full_tune_that_does_not_fit_is_told_of_gradients_and_state(project, monkeypatch):
    monkeypatch.setattr(step_module, "sample_losses", too_large)
    config = project(max_train_steps=SHORTEST, model_type="full", train_batch_size=1)
    with pytest.raises(OutOfMemoryError) as caught:
        train(load_config(config))
    assert "-> set optimizer_release_gradients to true; if that is not enough: set optimizer to one" in str(
        caught.value
    )


def test_a_first_step_as_large_as_any_needs_no_rehearsal(project, rehearsals):
    run = prepare_run(load_config(project(max_train_steps=SHORTEST, seed=2)), StopRequest())
    assert max(batch.latents.numel() for batch in run.source.step(0)) == 2 * 32 * 6 * 6
    Path("output").mkdir()
    run._rehearsal().run(with_picture=False)
    assert rehearsals()[0].startswith("rehearsed a checkpoint: ")
    run.data.latents.close()


def test_a_short_run_is_not_rehearsed(project, rehearsals):
    train(load_config(project(max_train_steps=2)))
    assert rehearsals() == []


def test_a_resumed_run_is_rehearsed_when_something_changed(project, rehearsals, monkeypatch):
    settings = {"max_train_steps": 2 * SHORTEST, "checkpoint_step_interval": 2}
    stop = StopRequest()

    def interrupted(**changed):
        run = prepare_run(load_config(project(**{**settings, **changed})), stop)
        stop.requested = True
        run.train()
        stop.requested = False

    Path("output").mkdir()
    interrupted()
    assert len(rehearsals()) == 1
    interrupted()
    assert len(rehearsals()) == 1
    interrupted(gradient_checkpointing=False)
    assert len(rehearsals()) == 2


def too_large(*_):
    """Ask the allocator for more than any machine has."""
    return torch.empty(2**50)


def test_a_batch_that_does_not_fit_is_explained(project, monkeypatch):
    monkeypatch.setattr(step_module, "sample_losses", too_large)
    config = project(max_train_steps=SHORTEST, gradient_checkpointing=False)
    with pytest.raises(OutOfMemoryError) as caught:
        train(load_config(config))
    message = str(caught.value)
    assert message.startswith("a training step of 2 pictures of 192x192 does not fit into memory: the run held ")
    remedies = ["set gradient_checkpointing to true", "lower train_batch_size from 2 to 1", "lower the resolution of"]
    places = [message.index(remedy) for remedy in remedies]
    assert places == sorted(places)
    assert not list(Path("output").glob("*checkpoint*"))


def test_what_is_set_already_is_not_advised(project, monkeypatch):
    monkeypatch.setattr(step_module, "sample_losses", too_large)
    given = {"gradient_checkpointing": True, "train_batch_size": 1, "base_model_precision": "int8-quanto"}
    config = project(max_train_steps=SHORTEST, **given)
    with pytest.raises(OutOfMemoryError, match=r"\n    -> lower the resolution of data set photographs$"):
        train(load_config(config))


def test_memory_that_runs_out_later_is_explained_too(project, monkeypatch):
    monkeypatch.setattr(step_module, "sample_losses", too_large)
    with pytest.raises(OutOfMemoryError, match=r"^training does not fit into memory"):
        train(load_config(project(max_train_steps=2)))


def test_a_picture_that_does_not_fit_is_explained(project):
    """The noise of this picture alone takes two terabytes."""
    pictures = {**PICTURES, "validation_resolution": "64,4000000"}
    config = project(max_train_steps=SHORTEST, checkpoint_step_interval=1, **pictures)
    with pytest.raises(OutOfMemoryError) as caught:
        train(load_config(config))
    assert "a validation picture of 4000000x4000000 does not fit into memory" in str(caught.value)
    assert "-> set vae_enable_tiling to true; if that is not enough: set base_model_precision" in str(caught.value)
    assert str(caught.value).endswith("lower validation_resolution")
    assert not list(Path("output").glob("*checkpoint*"))


@contextmanager
def small_files(limit: int):
    """Let no file become larger than `limit` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_is_told_before_the_first_step(project):
    run = prepare_run(load_config(project(max_train_steps=SHORTEST)), StopRequest())
    Path("output").mkdir()
    with small_files(1000), pytest.raises(CheckpointError, match=r"no checkpoint can be written to output: "):
        run._rehearsal().run(with_picture=False)
    assert list(Path("output").iterdir()) == []
    run.data.latents.close()


def test_a_full_disk_leaves_no_half_of_a_checkpoint(project):
    run = prepare_run(load_config(project(max_train_steps=1)), StopRequest())
    held = hold_state(run.learner)
    Path("output").mkdir()
    with small_files(1000), pytest.raises(CheckpointError, match=r"cannot write output/checkpoint-1: "):
        run._save_checkpoint(1, held)
    assert list(Path("output").iterdir()) == []
    run.data.latents.close()
