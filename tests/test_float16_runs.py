"""Runs that compute in float16: what they learn, what overflows, what they write."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tuner.cli.main import main
from tuner.config.loading import load_config
from tuner.errors import ConfigError, NonFiniteError
from tuner.optim import scaling
from tuner.training.run import train

KINDS = {
    "lokr": {},
    "lora": {"lora_type": "standard", "lora_rank": 4, "grad_clip_method": "norm"},
    "full": {"model_type": "full", "learning_rate": 1e-4},
}


def losses(folder="output"):
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines], [line.get("loss_scale") for line in lines]


@pytest.fixture
def first_scale(monkeypatch):
    """Let losses be scaled by another factor at first."""

    def begin(factor):
        scaler = torch.amp.GradScaler
        monkeypatch.setattr(scaling.torch.amp, "GradScaler", lambda device: scaler(device, init_scale=factor))

    return begin


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_float32_learns(project, kind):
    settings = {**KINDS[kind], "log_interval": 1, "lr_warmup_steps": 0, "cache_dir": "cache"}
    found = {}
    for precision in ("no", "fp16"):
        result = train(load_config(project(**settings, mixed_precision=precision, output_dir=precision)))
        written = result.exported
        files = [written] if written.is_file() else (written / "transformer").glob("*.safetensors")
        assert {tensor.dtype for file in files for tensor in load_file(file).values()} == {torch.float32}
        found[precision] = losses(precision)
    assert found["fp16"][0] != found["no"][0]
    assert found["fp16"][0] == pytest.approx(found["no"][0], rel=0.02)
    assert set(found["fp16"][1]) == {65536.0}
    assert set(found["no"][1]) == {None}


def test_steps_that_overflow_change_nothing_and_halve_the_scale(project, first_scale, caplog):
    first_scale(2.0**60)
    settings = {"mixed_precision": "fp16", "log_interval": 1, "lr_warmup_steps": 0}
    caplog.set_level("INFO")
    train(load_config(project(**settings, max_train_steps=2)))
    result = train(load_config(project(**settings, max_train_steps=3)))  # resumed
    assert losses()[1] == [2.0**59, 2.0**58, 2.0**57]
    assert "step 1 is left out: its gradients overflowed float16; losses are now scaled by 5.76461e+17" in caplog.text
    assert all(not tensor.any() for name, tensor in load_file(result.exported).items() if name.endswith("lokr_w2"))


def test_gradients_that_overflow_by_themselves_end_the_run(project, first_scale, monkeypatch):
    first_scale(1.0)
    monkeypatch.setattr(scaling.LossScale, "scaled", lambda self, loss: self._scaler.scale(loss) * float("inf"))
    with pytest.raises(NonFiniteError, match="the gradient of step 1 is"):
        train(load_config(project(mixed_precision="fp16")))


def test_pictures_evaluation_checkpoints_and_generation(project, capsys):
    settings = {
        "validation_prompt": "a cat",
        "validation_step_interval": 2,
        "validation_resolution": "64",
        "validation_num_inference_steps": 2,
        "eval_steps_interval": 2,
        "max_train_steps": 2,
        "mixed_precision": "fp16",
    }
    result = train(load_config(project(**settings)))
    assert json.loads(Path("output/checkpoint-2/loss_scale.json").read_text())["scale"] == 65536.0
    assert list(Path("output").rglob("*.png"))
    capsys.readouterr()
    command = ["generate", "--adapter", str(result.exported), "--prompt", "a cat", "--width", "64", "--height", "64"]
    assert main([*command, "--steps", "2"]) == 0
    with Image.open(capsys.readouterr().out.strip()) as drawn:
        assert json.loads(drawn.info["tuner"])["precision"] == "fp16"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw_bf16"}, "adamw_bf16 trains bf16 weights, but mixed_precision is fp16"),
        ({"optimizer_release_gradients": True, "model_type": "full"}, "overflow float16 is left out"),
        ({"base_model_precision": "int8-quanto"}, "fp16 was never tried with weights that are stored in fewer bits"),
        ({"dynamo_backend": "eager"}, "compute in float16 is not proven"),
        ({"fsdp_enable": True, "model_type": "full"}, "losses are scaled for float16"),
    ],
)
def test_what_does_not_go_with_it_is_refused(project, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(project(**{"mixed_precision": "fp16", **settings}))


def test_it_is_advised_against(project):
    assert any(
        "fp16 is for weights that were published for it" in text
        for text in load_config(project(mixed_precision="fp16")).warnings
    )
