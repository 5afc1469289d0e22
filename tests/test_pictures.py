"""Validation pictures of whole runs: whose weights they show, what is beside them, and that training never notices."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tuner import hookimpl
from tuner.config.loading import load_config
from tuner.training import picture_rounds, session
from tuner.training.interruption import StopRequest
from tuner.training.picture_rounds import LIVE
from tuner.training.run import prepare_run, train
from tuner.validation.sampling import sample_picture

SIZES = ("0_128x128", "1_192x128")
PICTURES = {
    "validation_prompt": "a cat",
    "validation_step_interval": 2,
    "validation_resolution": "128,192x128",
    "validation_num_inference_steps": 2,
    "validation_guidance": 3.0,
}
TRAINING = {"max_train_steps": 3, "learning_rate": 2e-2, "use_ema": True, "cache_dir": "cache"}


class Recorder:
    def __init__(self):
        self.events = []

    @hookimpl
    def images_validated(self, event):
        self.events.append(event)


@pytest.fixture
def recorder(monkeypatch):
    """An extension that keeps what it hears of pictures."""
    recorder, create = Recorder(), session.create_extensions
    monkeypatch.setattr(session, "create_extensions", lambda config: [*create(config), recorder])
    return recorder


@pytest.fixture
def without_pictures(project, weights):
    """The tensors that a run exports which makes no pictures."""
    result = train(load_config(project(**TRAINING, output_dir="without")))
    return weights(result.exported), weights(Path("without/ema/pytorch_lora_weights.safetensors"))


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def columns(path, count):
    """Return the pictures of a sheet, without the band that holds labels."""
    sheet = pixels(path)
    width = (sheet.shape[1] - 5 * (count - 1)) // count
    assert width * count + 5 * (count - 1) == sheet.shape[1]
    return [sheet[40:, left : left + width] for left in range(0, sheet.shape[1], width + 5)]


def names(folder):
    return sorted(path.name for path in Path(folder).glob("*.png"))


def test_pictures_come_before_during_and_after(project):
    train(load_config(project(max_train_steps=3, **PICTURES, report_to="tensorboard", log_interval=1)))
    base = sorted(path.name for path in Path("output/benchmarks/base_model").iterdir())
    assert base == [
        "step_0_unconditional_0_128x128.png", "step_0_unconditional_1_192x128.png",
        "step_0_validation_0_128x128.png", "step_0_validation_1_192x128.png",
    ]  # fmt: skip
    live = {path.name.split("_")[1] for path in Path("output/validation_images").glob("*.png")}
    assert live == {"2", "3"}
    rows = [json.loads(line) for line in Path("output/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["learning_rate"] for row in rows] == [0.0, 5e-4, 1e-3]
    assert all(math.isfinite(row["loss"]) and row["grad_max_abs"] <= 2.0 for row in rows)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator("output/logs/simpletuner-testing").Reload()
    assert [round(event.value, 5) for event in events.Scalars("train_loss")] == [round(row["loss"], 5) for row in rows]
    assert "validation/0" in events.Tags()["images"]


def test_base_pictures_can_be_left_out(project):
    train(load_config(project(max_train_steps=1, **PICTURES, disable_benchmark=True)))
    assert not Path("output/benchmarks").exists()


def test_base_trained_and_average_side_by_side(project, recorder, without_pictures, twin, weights):
    settings = {**PICTURES, "validation_guidance_rescale": 0.7, "report_to": "tensorboard"}
    result = train(load_config(project(**TRAINING, **settings)))
    average = Path("output/ema/pytorch_lora_weights.safetensors")
    assert (weights(result.exported), weights(average)) == without_pictures
    nicknames = ("unconditional", "validation")
    for step in (2, 3):
        for name in (f"{nickname}_{size}" for nickname in nicknames for size in SIZES):
            base, live, ema = columns(f"output/validation_images/step_{step}_{name}.png", 3)
            assert np.array_equal(base, pixels(f"output/benchmarks/base_model/step_0_{name}.png")[40:])
            assert np.array_equal(live, pixels(f"output/validation_images/live/step_{step}_{name}.png")[40:])
            assert np.array_equal(ema, pixels(f"output/validation_images/ema/step_{step}_{name}.png")[40:])
            assert not np.array_equal(base, live)
            assert not np.array_equal(live, ema)
    expected = [f"step_{step}_{nickname}_{size}.png" for step in (2, 3) for nickname in nicknames for size in SIZES]
    assert names("output/validation_images") == names("output/validation_images/live") == expected
    told = [(event.step, event.label, sorted(event.files), len(event.shown)) for event in recorder.events]
    both = sorted(nicknames)
    assert told == [
        (0, "base model", both, 2), (2, "live", both, 2), (2, "ema", both, 0), (3, "live", both, 2), (3, "ema", both, 0)
    ]  # fmt: skip
    live = recorder.events[1]
    assert live.files["validation"][1] == Path("output/validation_images/live/step_2_validation_1_192x128.png")
    assert live.shown["validation"][1] == Path("output/validation_images/step_2_validation_1_192x128.png")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = EventAccumulator("output/logs/simpletuner-testing", {"images": 0}).Reload()
    widths = [event.width for event in logged.Images("validation/1")]
    assert widths == [192, 3 * 192 + 10, 3 * 192 + 10]
    assert_is_what_the_average_samples(project(**TRAINING, **settings), average, twin)


def assert_is_what_the_average_samples(config, average, twin):
    """The exported average, loaded by upstream's own loader, samples the last picture of the average."""
    from lycoris import create_lycoris_from_weights

    run = prepare_run(load_config(config), StopRequest())
    components = run.session.load("denoiser", "codec", "scheduler")
    network, _ = create_lycoris_from_weights(1.0, str(average), components.denoiser)
    network.apply_to()
    sampler = run.session.hook.validation_pipeline(components=components)
    rounds = run._pictures
    with torch.no_grad(), rounds._rescaled(sampler, components.denoiser):
        picture = sample_picture(
            sampler, rounds._read("a cat", "caption"), rounds._read("blurry, cropped, ugly", "negative"),
            width=128, height=128, steps=2, guidance=3.0, seed=run.session.seed,
        )  # fmt: skip
    shown = pixels("output/validation_images/ema/step_3_validation_0_128x128.png").astype(int)
    live = pixels("output/validation_images/live/step_3_validation_0_128x128.png").astype(int)
    error = np.abs(np.asarray(picture).astype(int) - shown).max()
    assert error <= 1 < np.abs(live - shown).max()


def test_the_adapters_strength_in_pictures_alone(project, without_pictures, weights):
    Path("prompts.json").write_text(json.dumps({"half": {"prompt": "a cat", "adapter_strength": 0.5}, "none": "a cat"}))
    settings = {"validation_lycoris_strength": 0, "user_prompt_library": "prompts.json", "ema_validation": "ema_only"}
    result = train(load_config(project(**TRAINING, **PICTURES, **settings)))
    average = Path("output/ema/pytorch_lora_weights.safetensors")
    assert (weights(result.exported), weights(average)) == without_pictures
    base, trained = Path("output/benchmarks/base_model"), Path("output/validation_images/ema")
    for nickname in ("validation", "unconditional", "none", "half"):
        for size in SIZES:
            one = (base / f"step_0_{nickname}_{size}.png").read_bytes()
            other = (trained / f"step_3_{nickname}_{size}.png").read_bytes()
            assert (one == other) == (nickname != "half")
    assert len(columns("output/validation_images/step_3_half_0_128x128.png", 2)) == 2
    assert not Path("output/validation_images/live").exists()


def test_a_round_that_fails_leaves_the_weights_as_they_were(project, monkeypatch):
    run = prepare_run(load_config(project(**TRAINING, **PICTURES, validation_lycoris_strength=0.5)), StopRequest())
    learner, calls = run.learner, []
    with torch.no_grad():
        for _, parameter in learner.trainable.named_parameters():
            parameter.add_(0.1)
    before = {name: value.clone() for name, value in learner.trainable.state().items()}
    held = {name: value.data_ptr() for name, value in learner.trainable.state().items()}

    def failing(*arguments, **rest):
        calls.append({name: value.clone() for name, value in learner.trainable.state().items()})
        with rest["at_strength"](0.5):
            if len(calls) == 2:
                raise RuntimeError("in the middle of the average's pictures")
        return {}

    monkeypatch.setattr(picture_rounds, "make_pictures", failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        run._pictures.make(2)
    live, average = calls
    assert all(torch.equal(before[name], value) for name, value in live.items())
    assert any(not torch.equal(before[name], value) for name, value in average.items())
    after = learner.trainable.state()
    assert all(torch.equal(before[name], after[name]) and held[name] == after[name].data_ptr() for name in before)
    assert {module.multiplier for module in learner.trainable.network.loras} == {1.0}


def test_a_base_picture_of_other_settings_is_not_beside(project):
    train(load_config(project(**PICTURES, max_train_steps=2, lora_type="standard", lora_rank=4)))
    changed = {**PICTURES, "validation_guidance": 2.0}
    train(load_config(project(**changed, max_train_steps=4, lora_type="standard", lora_rank=4)))
    folder = Path("output/validation_images")
    assert pixels(folder / "step_2_validation_0_128x128.png").shape == (128, 2 * 128 + 5, 3)
    assert pixels(folder / "step_4_validation_0_128x128.png").shape == (128, 128, 3)
    again = Path("output/validation_images/live/step_4_validation_0_128x128.png")
    assert np.array_equal(pixels(folder / "step_4_validation_0_128x128.png"), pixels(again))


def test_nothing_beside_a_picture_leaves_it_alone(project, recorder):
    settings = {"disable_benchmark": True, "ema_validation": "none", "validation_disable_unconditional": True}
    train(load_config(project(**TRAINING, **PICTURES, **settings)))
    assert names("output/validation_images") == [
        f"step_{step}_validation_{size}.png" for step in (2, 3) for size in SIZES
    ]
    assert [path for path in Path("output/validation_images").iterdir() if path.is_dir()] == []
    assert pixels("output/validation_images/step_2_validation_1_192x128.png").shape == (128, 192, 3)
    assert [(event.label, event.files == event.shown) for event in recorder.events] == [("live", True)] * 2
    assert not Path("output/benchmarks").exists()


def test_what_decides_on_a_picture(project):
    def opened(**settings):
        config = project(**{**PICTURES, "validation_resolution": "128", "max_train_steps": 1, **settings})
        return prepare_run(load_config(config), StopRequest())._pictures

    def picture(rounds, seed=42, **changes):
        loaded = rounds.session.loaded
        validation = loaded.config.validation.model_copy(update=changes)
        loaded = replace(loaded, config=loaded.config.model_copy(update={"validation": validation}))
        changed = replace(rounds, session=replace(rounds.session, loaded=loaded, seed=seed))
        (file,) = changed._make_all(1, {LIVE: Path("pictures")})[LIVE]["validation"]
        return pixels(file)

    rounds = opened()
    first = picture(rounds)
    assert np.array_equal(picture(rounds), first)
    assert not np.array_equal(picture(rounds, seed=7), first)
    assert np.array_equal(picture(rounds, seed=7, validation_seed=42), first)
    assert not np.array_equal(picture(rounds, validation_num_inference_steps=3), first)
    assert not np.array_equal(picture(rounds, validation_guidance=2.0), first)
    assert not np.array_equal(picture(rounds, validation_guidance_rescale=1.0), first)
    assert not np.array_equal(picture(opened(validation_negative_prompt="a painting of a horse")), first)
