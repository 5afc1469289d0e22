"""What changes the target or the loss, written once on velocities: regularisation, masks, rollouts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tuner.config.loading import load_config
from tuner.config.scheduled_sampling import ScheduledSamplingConfig
from tuner.errors import ConfigError
from tuner.training.interruption import StopRequest
from tuner.training.rollout import Rollout
from tuner.training.run import prepare_run, train
from tuner.training.step import Learning, backward_step, prepare_batch, sample_losses

SQUARE = {"crop": True, "crop_style": "center"}


def prepared(config: Path):
    run = prepare_run(load_config(config), StopRequest())
    learner = run.learner
    return run, Learning(run.session.hook, learner.components, learner.trainable, torch.device("cpu"), torch.float32)


def gradients(run, learning, micro_batches):
    parameters = [parameter for _, parameter in run.learner.trainable.named_parameters()]
    for parameter in parameters:
        parameter.grad = None
    loss, parts, _ = backward_step(learning, micro_batches, lambda value: value.backward())
    return loss, parts, torch.cat([parameter.grad.flatten() for parameter in parameters])


@pytest.fixture
def masked(project, photographs):
    """A project whose pictures have masks; `paint(name, size)` makes each."""

    def write(paint, **settings):
        Path("masks").mkdir(exist_ok=True)
        for path in photographs.glob("*.png"):
            with Image.open(path) as picture:
                paint(path.stem, picture.size).save(Path("masks") / f"{path.stem}.png")
        config = project(dataset={**SQUARE, "conditioning_data": "masks"}, learning_rate=1e-2, **settings)
        entries = json.loads(Path("multidatabackend.json").read_text())
        masks = {
            "id": "masks",
            "dataset_type": "conditioning",
            "conditioning_type": "mask",
            "instance_data_dir": "masks",
        }
        Path("multidatabackend.json").write_text(json.dumps([*entries, masks]))
        return config

    return write


def test_a_black_mask_gives_no_loss_and_no_gradient(masked):
    run, learning = prepared(masked(lambda name, size: Image.new("L", size, 0)))
    loss, _, gradient = gradients(run, learning, run.source.step(0))
    assert loss == 0
    assert torch.count_nonzero(gradient) == 0


def test_a_white_mask_is_no_mask(masked):
    run, learning = prepared(masked(lambda name, size: Image.new("L", size, 255)))
    white = run.source.step(0)
    assert white[0].mask.shape == (2, 1, 6, 6)
    with_mask = gradients(run, learning, white)
    without = gradients(run, learning, [replace(batch, mask=None) for batch in white])
    assert torch.equal(with_mask[0], without[0])
    assert torch.equal(with_mask[2], without[2])


def test_a_mask_is_averaged_over_cells_and_weights_the_loss(masked):
    def half(name, size):
        mask = Image.new("L", size, 0)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        return mask

    run, learning = prepared(masked(half))
    (drawn,) = run.source.step(0)
    assert drawn.mask.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.mask[0, 0, 0, 0] == 1
    assert drawn.mask[0, 0, 0, -1] == 0
    batch = prepare_batch(learning, drawn)
    losses, prediction = sample_losses(learning, batch, drawn.mask)
    by_hand = ((prediction.velocity - batch.target) ** 2 * drawn.mask).mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses, by_hand)


def test_pictures_without_a_fitting_mask_are_left_out_with_the_reason(masked, capsys):
    from tuner.cli.main import main

    config = masked(lambda name, size: Image.new("L", (size[1] * 2, size[0]) if name == "coffee" else size, 255))
    Path("masks/rocket.png").unlink()
    assert main(["check", str(config)]) == 0
    text = capsys.readouterr().out
    assert "has no mask rocket" in text
    assert "has a mask of another shape" in text
    assert train(load_config(config)).step == 6


def test_masks_that_nobody_names_are_an_error(masked):
    config = masked(lambda name, size: Image.new("L", size, 0))
    entries = json.loads(Path("multidatabackend.json").read_text())
    entries[0]["conditioning_data"] = "nothing"
    Path("multidatabackend.json").write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=r"(?s)'nothing' is no entry.*no data set names these masks"):
        load_config(config)


@pytest.mark.parametrize("spelling", ["is_regularisation_data", "is_regularization_data"])
def test_a_fresh_adapter_has_no_regularisation_loss(project, spelling):
    for adapter in ({"lora_type": "lycoris"}, {"lora_type": "standard", "lora_dropout": 0.0}):
        run, learning = prepared(project(dataset={**SQUARE, spelling: True}, **adapter))
        loss, parts, gradient = gradients(run, learning, run.source.step(0))
        assert loss == 0
        assert parts["regularisation_loss"] == 0
        assert torch.count_nonzero(gradient) == 0


def test_regularisation_pulls_back_to_the_base_model_and_is_logged_apart(project, photographs):
    shutil.copytree(photographs, "others")
    config = project(dataset=SQUARE, learning_rate=1e-2, max_train_steps=12, log_interval=1)
    entries = json.loads(Path("multidatabackend.json").read_text())
    entries.append({**entries[0], "id": "others", "instance_data_dir": "others", "is_regularisation_data": True})
    Path("multidatabackend.json").write_text(json.dumps(entries))
    train(load_config(config))
    rows = [json.loads(line) for line in Path("output/metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if "regularisation_loss" in row]
    assert 0 < len(kept) < len(rows)
    assert kept[-1]["regularisation_loss"] > 0
    run, learning = prepared(config)
    drawn = next(batch for step in range(9) for batch in run.source.step(step) if batch.regularisation)
    batch = prepare_batch(learning, drawn)
    with run.learner.trainable.disabled(), torch.no_grad():
        assert torch.equal(batch.target, learning.predict(batch).velocity)


def test_regularisation_needs_a_base_model(project):
    with pytest.raises(ConfigError, match="model_type full changes the base model"):
        load_config(project(dataset={"is_regularisation_data": True}, model_type="full"))


ROLLOUTS = {"scheduled_sampling_max_step_offset": 5, "scheduled_sampling_probability": 1.0}


LONG = {"scheduled_sampling_strategy": "biased_late", "scheduled_sampling_sampler": "unipc"}


def count_calls(learning, drawn):
    calls = []
    hook = learning.hook

    class Spy:
        def compute_loss(self, components, batch):
            calls.append(torch.is_grad_enabled())
            return hook.compute_loss(components=components, batch=batch)

    prepare_batch(replace(learning, hook=Spy()), drawn)
    return calls


def test_rollouts_take_up_to_the_offset_steps_without_gradient(project):
    run, learning = prepared(project(dataset=SQUARE, **ROLLOUTS))
    counts = set()
    for step in range(12):
        for drawn in run.source.step(step):
            calls = count_calls(learning, drawn)
            assert not any(calls)
            assert len(calls) == (0 if drawn.rollout is None else int(drawn.rollout.moves.max()))
            counts.add(len(calls))
    assert max(counts) == 5


@pytest.mark.parametrize("off", [{"scheduled_sampling_probability": 0.0}, {"scheduled_sampling_max_step_offset": 0}])
def test_rollouts_are_off_unless_both_settings_are_on(project, off, weights):
    train(load_config(project(**{**ROLLOUTS, **off}, output_dir="off", max_train_steps=2)))
    train(load_config(project(output_dir="without", max_train_steps=2)))
    results = [weights(Path(name, "pytorch_lora_weights.safetensors")) for name in ("off", "without")]
    assert results[0] == results[1]


def test_a_true_velocity_rolls_out_onto_the_same_line(project):
    """With a perfect model the state after a rollout is the mixture at its sigma, and the target is unchanged."""
    run, learning = prepared(project(dataset=SQUARE, **ROLLOUTS))
    (drawn,) = run.source.step(0)
    drawn = replace(drawn, rollout=Rollout(torch.tensor([5, 2])))
    plain = replace(drawn, rollout=None)
    expected = prepare_batch(learning, plain)

    class Oracle:
        def compute_loss(self, components, batch):
            from tuner.types import Prediction

            return Prediction(drawn.noise - drawn.latents)

    rolled = prepare_batch(replace(learning, hook=Oracle()), drawn)
    torch.testing.assert_close(rolled.x, expected.x, rtol=0, atol=1e-5)
    torch.testing.assert_close(rolled.target, expected.target, rtol=1e-4, atol=1e-4)


def test_the_ramp_of_rollouts():
    ramp = ScheduledSamplingConfig(
        **ROLLOUTS, scheduled_sampling_start_step=10, scheduled_sampling_ramp_steps=100,
        scheduled_sampling_prob_start=0.1, scheduled_sampling_prob_end=0.5,
    )  # fmt: skip
    assert [ramp.probability(step) for step in (0, 9, 10, 60, 110, 500)] == pytest.approx([0, 0, 0.1, 0.3, 0.5, 0.5])
    cosine = ramp.model_copy(update={"scheduled_sampling_ramp_shape": "cosine"})
    assert cosine.probability(35) == pytest.approx(0.1 + 0.4 * 0.14644661)


def test_the_sampler_of_rollouts_acts(project):
    """States that two integrators reach differ a little, most where a model step removes much of the noise."""
    reached = {}
    for sampler in ("euler", "dpm", "unipc"):
        settings = {**ROLLOUTS, "scheduled_sampling_sampler": sampler, "flow_custom_timesteps": "0.001"}
        run, learning = prepared(project(dataset=SQUARE, **settings))
        drawn = next(
            batch
            for step in range(20)
            for batch in run.source.step(step)
            if batch.rollout and min(batch.rollout.moves) > 2
        )
        reached[sampler] = prepare_batch(learning, drawn).x
    assert not torch.equal(reached["euler"], reached["dpm"])
    assert not torch.equal(reached["dpm"], reached["unipc"])
    torch.testing.assert_close(reached["euler"], reached["unipc"], rtol=0, atol=1e-3)


def test_samples_without_noise_are_not_rolled_out(project):
    run, learning = prepared(project(dataset=SQUARE, flow_custom_timesteps="0, 0.0005, 0.5", **ROLLOUTS))
    rolled = 0
    for step in range(12):
        for drawn in run.source.step(step):
            moves = torch.zeros(len(drawn.keys)) if drawn.rollout is None else drawn.rollout.moves
            assert not (moves[drawn.sigma < 1e-3] > 0).any()
            rolled += int((moves > 0).sum())
            assert prepare_batch(learning, drawn).target.isfinite().all()
    assert rolled > 0


def test_sigmas_in_turn_follow_the_samples_of_a_run(project):
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    run, _ = prepared(project(flow_custom_timesteps=levels, flow_timesteps_mode="round-robin"))
    drawn = {step: run.source.step(step)[0].sigma.tolist() for step in (7, 3, 0, 2, 1, 6, 5, 4)}
    assert {len(sigmas) for sigmas in drawn.values()} == {1, 2}  # two buckets of three pictures, batches of two
    assert [sigma for step in range(8) for sigma in drawn[step]] == pytest.approx([*levels, *levels, *levels][:12])


def test_a_run_with_everything_resumes_exactly(project, photographs):
    shutil.copytree(photographs, "others")

    def write(output_dir, steps):
        settings = {"output_dir": output_dir, "max_train_steps": steps, "cache_dir": "cache", **ROLLOUTS, **LONG}
        config = project(dataset=SQUARE, **settings)
        entries = json.loads(Path("multidatabackend.json").read_text())
        entries.append({**entries[0], "id": "others", "instance_data_dir": "others", "is_regularisation_data": True})
        Path("multidatabackend.json").write_text(json.dumps(entries))
        return load_config(config)

    train(write("straight", 6))
    train(write("halves", 3))
    train(write("halves", 6))
    results = [Path(name, "checkpoint-6/adapter_state.safetensors").read_bytes() for name in ("straight", "halves")]
    assert results[0] == results[1]
