"""Whole runs: what optimizers, schedules and released gradients do to the weights and the log."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from safetensors.torch import load_file

from tuner.config.loading import load_config
from tuner.errors import CheckpointError, TunerError
from tuner.training.interruption import StopRequest
from tuner.training.run import prepare_run, train


def run(config: Path) -> None:
    train(load_config(config))


def rows(folder: str = "output") -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def weights(folder: str) -> dict:
    return load_file(Path(folder) / "pytorch_lora_weights.safetensors")


RELEASES = {
    "lokr": {"max_grad_norm": 1e-4},
    "lora": {"lora_type": "standard", "lora_rank": 4, "optimizer": "optimi-lion", "gradient_checkpointing": False},
    "full": {"model_type": "full", "max_grad_norm": 0},
}


@pytest.mark.parametrize("name", RELEASES)
def test_released_gradients_give_the_same_weights(project, name):
    settings = {**RELEASES[name], "cache_dir": "cache", "max_train_steps": 3, "log_interval": 2}
    run(project(**settings, output_dir="together"))
    run(project(**settings, output_dir="released", optimizer_release_gradients=True))
    files = [path.relative_to("together") for path in Path("together").glob("checkpoint-3/**/*.safetensors")]
    compared = 0
    for file in files:
        if file.name != "optimizer.safetensors":
            found, expected = load_file(Path("released") / file), load_file(Path("together") / file)
            assert found.keys() == expected.keys()
            assert all((found[key] == expected[key]).all() for key in expected)
            compared += len(expected)
    assert compared
    assert rows("released") == rows("together")
    assert ("grad_max_abs" in rows("released")[0]) == (name != "full")


def test_released_gradients_are_never_in_memory_together(project):
    """The most bytes of gradients, counted when one more is complete, in the first step of a full tune."""
    peaks = {}
    for released in (False, True):
        config = project(model_type="full", max_grad_norm=0, optimizer_release_gradients=released)
        run = prepare_run(load_config(config), StopRequest())
        weights = [parameter for _, parameter in run.learner.trainable.named_parameters()]
        found = []

        def count(weight, weights=weights, found=found, released=released):
            # Where it is released, its own has just gone.
            own = weight.nbytes if released else 0
            found.append(own + sum(other.grad.nbytes for other in weights if other.grad is not None))

        for weight in weights:
            weight.register_post_accumulate_grad_hook(count)
        next(iter(run.loop(torch.Tensor.backward).run(0, 1)))
        run.data.latents.close()
        peaks[released] = max(found)
    assert peaks[False] >= 0.9 * sum(weight.nbytes for weight in weights)
    assert peaks[True] == max(weight.nbytes for weight in weights)


def test_prodigy_logs_its_estimate_and_clips_nothing(project):
    run(project(optimizer="prodigy", learning_rate=1.0, lr_warmup_steps=0, log_interval=1, optimizer_config="d0=1e-5"))
    found = [row["d"] for row in rows()]
    assert found[0] == pytest.approx(1e-5)
    assert found[-1] > found[0]
    assert not any("grad_max_abs" in row for row in rows())


def test_what_really_runs_without_a_gpu_is_named(project, caplog):
    run(project(optimizer="bnb-lion8bit-paged", max_train_steps=1))
    (line,) = (record.getMessage() for record in caplog.records if "needs CUDA" in record.getMessage())
    assert line == "optimizer bnb-lion8bit-paged needs CUDA; bitsandbytes.optim.Lion8bit runs in its place"


def test_a_compiler_that_the_optimizer_needs_is_named_before_anything_is_loaded(project):
    loaded = load_config(project(optimizer="ao-adamw8bit"))
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(TunerError, match=r"optimizer: ao-adamw8bit compiles its step, .* needs a C\+\+ compiler"),
    ):
        train(loaded)
    assert not Path("cache").exists()


def test_the_schedule_ends_with_the_run(project):
    run(project(lr_scheduler="cosine", learning_rate=1e-3, lr_warmup_steps=2, max_train_steps=6, log_interval=1))
    expected = [0, 5e-4, *(1e-3 * math.cos(math.pi * done / 8) ** 2 for done in range(4))]
    assert [row["learning_rate"] for row in rows()] == pytest.approx(expected)


def test_a_resumed_run_takes_a_new_constant_learning_rate(project):
    run(project(max_train_steps=3, log_interval=1))
    run(project(max_train_steps=4, log_interval=1, learning_rate=5e-4))
    assert [row["learning_rate"] for row in rows()] == pytest.approx([0, 5e-4, 1e-3, 5e-4])


@pytest.mark.parametrize("change", [{"max_train_steps": 5}, {"learning_rate": 5e-4}])
def test_a_schedule_with_an_end_is_not_changed_silently(project, change):
    run(project(max_train_steps=2, lr_scheduler="linear"))
    changed = {"max_train_steps": 2, "lr_scheduler": "linear", **change}
    with pytest.raises(CheckpointError, match=r"schedule was 'linear, peak 0\.001, 2 steps"):
        run(project(**changed))
    run(project(**changed, i_know_what_i_am_doing=True))
    assert Path(f"output/checkpoint-{changed['max_train_steps']}").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer_config": "weight_decay=0.1"}, r"is 'optimi-adamw {\"weight_decay\": \"0.1\"}' now"),
        ({"optimizer_release_gradients": True}, "is 'optimi-adamw, gradients released' now"),
    ],
)
def test_another_optimizer_is_not_resumed(project, change, message):
    run(project(max_train_steps=2))
    with pytest.raises(CheckpointError, match=message):
        run(project(**change))


def test_an_average_on_the_cpu_warms_up(project):
    average = {"use_ema": True, "ema_device": "cpu", "ema_cpu_only": True, "ema_foreach_disable": True}
    run(project(**average, ema_warmup_steps=3, max_train_steps=3))
    folder = Path("output/checkpoint-3")
    live, averaged = load_file(folder / "adapter_state.safetensors"), load_file(folder / "ema/average.safetensors")
    assert averaged
    assert all((live[name] == value).all() for name, value in averaged.items())
    run(project(**average, ema_warmup_steps=3, max_train_steps=5))
    folder = Path("output/checkpoint-5")
    live, averaged = load_file(folder / "adapter_state.safetensors"), load_file(folder / "ema/average.safetensors")
    assert not all((live[name] == value).all() for name, value in averaged.items())
