"""A run that was stopped, killed or extended gives bit for bit what an undisturbed one gives."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.config.loading import load_config
from tuner.errors import CheckpointError
from tuner.training.run import train

LOKR = {"model_type": "lora", "lora_type": "lycoris"}
STANDARD = {"model_type": "lora", "lora_type": "standard", "lora_rank": 4}
FULL = {"model_type": "full"}
RUNS: dict[str, dict] = {
    "lokr": {**LOKR, "use_ema": True, "gradient_accumulation_steps": 2},
    "lokr in bf16": {**LOKR, "mixed_precision": "bf16", "optimizer": "adamw_bf16", "use_ema": True},
    "lora with dropout": {**STANDARD, "gradient_checkpointing": False},
    "lora in bf16": {**STANDARD, "mixed_precision": "bf16", "optimizer": "optimi-lion"},
    "full": {**FULL, "use_ema": True, "grad_clip_method": "norm", "max_grad_norm": 1.0},
    "full in bf16": {**FULL, "mixed_precision": "bf16", "optimizer": "optimi-adamw"},
    "full in 8 bits": {**FULL, "optimizer": "bnb-lion8bit-paged", "use_ema": True, "ema_warmup_steps": 2},
    "full with factors": {**FULL, "optimizer": "adafactor", "optimizer_config": "weight_decay=0.1"},
    "lokr in fp16": {**LOKR, "mixed_precision": "fp16", "use_ema": True},
    "full with released gradients": {**FULL, "optimizer_release_gradients": True, "use_ema": True},
    "lokr with prodigy": {**LOKR, "optimizer": "prodigy", "learning_rate": 1.0, "mixed_precision": "bf16"},
    "lora with prodigy, released": {
        **STANDARD, "optimizer": "prodigy", "learning_rate": 1.0, "optimizer_config": {"fused_back_pass": True},
    },
    "lora with torchao in bf16": {**STANDARD, "optimizer": "ao-adamw8bit", "mixed_precision": "bf16"},
    "lokr with a class of optimi": {**LOKR, "optimizer": "optimi-ranger", "mixed_precision": "bf16"},
    "lora with a class of torch": {**STANDARD, "optimizer": "torch.optim.NAdam"},
}  # fmt: skip
OFTEN = ("lokr", "lokr in bf16", "lokr in fp16", "lora with dropout", "full", "full in bf16")
"""Those of make test. The others differ by their optimizers, and each optimizer's own state is tested in the core."""


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.long) for name in RUNS]
)
def test_three_and_three_steps_are_six(project, name, digests):
    scalar = {"use_scalar": True} if "lokr" in name else {}
    settings = {**RUNS[name], "cache_dir": "cache"}
    train(load_config(project(scalar, **settings, output_dir="straight")))
    train(load_config(project(scalar, **settings, output_dir="halves", max_train_steps=3)))
    train(load_config(project(scalar, **settings, output_dir="halves")))
    straight, halves = digests(Path("straight/checkpoint-6")), digests(Path("halves/checkpoint-6"))
    assert straight == halves
    assert digests(Path("halves/checkpoint-3")) != halves
    assert any(name.startswith("ema/") for name in straight) == bool(settings.get("use_ema"))


KILLED = """
import os, signal, sys
import tuner.training.checkpoint as checkpoint
import tuner.training.loop as loop
from tuner.cli.main import main

place, count = sys.argv[1], int(sys.argv[2])
calls = 0

def deadly(function):
    def call(*arguments, **settings):
        global calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **settings)
    return call

if place == "step":
    loop.backward_step = deadly(loop.backward_step)
elif place == "half a checkpoint":
    checkpoint._hash_files = deadly(checkpoint._hash_files)
elif place == "unrenamed checkpoint":
    checkpoint._sync = deadly(checkpoint._sync)
elif place == "pruning":
    checkpoint.shutil.rmtree = deadly(checkpoint.shutil.rmtree)
sys.exit(main(["train", sys.argv[3]]))
"""


def run_until_killed(config: Path, place: str, count: int) -> int:
    command = [sys.executable, "-c", KILLED, place, str(count), str(config)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_a_run_killed_again_and_again_ends_the_same(project, digests):
    settings = {"checkpoint_step_interval": 1, "checkpoints_total_limit": 2, "use_ema": True, "cache_dir": "cache"}
    train(load_config(project(**settings, output_dir="straight")))
    config = project(**settings, output_dir="killed")
    for place, count in [("step", 3), ("half a checkpoint", 2), ("unrenamed checkpoint", 1), ("pruning", 1)]:
        assert run_until_killed(config, place, count) == -signal.SIGKILL
    assert train(load_config(config)).step == 6
    assert digests(Path("killed/checkpoint-6")) == digests(Path("straight/checkpoint-6"))
    assert [path.name for path in Path("killed").glob(".*")] == [".lock"]
    adapter = "pytorch_lora_weights.safetensors"
    assert Path("killed", adapter).read_bytes() == Path("straight", adapter).read_bytes()


def test_an_interrupted_run_saves_and_says_so(project):
    config = project(max_train_steps=100_000, checkpoint_step_interval=0, log_interval=1)
    process = subprocess.Popen([sys.executable, "-m", "tuner", "train", str(config)], stderr=subprocess.PIPE)
    while not (Path("output/metrics.jsonl").is_file() and Path("output/metrics.jsonl").stat().st_size):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    (checkpoint,) = Path("output").glob("checkpoint-*")
    state = json.loads((checkpoint / "training_state.json").read_text())
    assert checkpoint.name == f"checkpoint-{state['step']}"
    assert state["step"] > 0


def test_old_checkpoints_go_and_the_newest_stays(project):
    train(load_config(project(checkpoint_step_interval=1, checkpoints_total_limit=2)))
    assert sorted(path.name for path in Path("output").glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]
    train(load_config(project(max_train_steps=8, checkpoint_step_interval=1, checkpoints_total_limit=1)))
    assert [path.name for path in Path("output").glob("checkpoint-*")] == ["checkpoint-8"]
    train(load_config(project(max_train_steps=10, checkpoint_step_interval=1, checkpoints_total_limit=0)))
    assert len(list(Path("output").glob("checkpoint-*"))) == 3


def test_a_damaged_checkpoint_is_an_error(project):
    train(load_config(project(checkpoint_step_interval=3)))
    damaged = Path("output/checkpoint-6/optimizer.safetensors")
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors differ.*\n.*checkpoint-3"):
        train(load_config(project(max_train_steps=8)))
    (Path("output/checkpoint-3") / "adapter_state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="adapter_state"):
        train(load_config(project(max_train_steps=8, resume_from_checkpoint="checkpoint-3")))


def test_a_checkpoint_that_is_not_there_is_an_error(project):
    with pytest.raises(CheckpointError, match="no 'checkpoint-7'"):
        train(load_config(project(resume_from_checkpoint="checkpoint-7")))
    assert [path.name for path in Path("output").iterdir()] == [".lock"]


def test_a_fresh_start_never_writes_over_a_run(project):
    train(load_config(project(max_train_steps=2)))
    with pytest.raises(CheckpointError, match="choose another output_dir"):
        train(load_config(project(max_train_steps=2, resume_from_checkpoint="none")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_batch_size": 1}, "batch was '2 x 1'"),
        ({"optimizer": "optimi-lion"}, "optimizer was"),
        ({"lora_type": "standard"}, "kind was 'lycoris'"),
        ({"dataset": {"repeats": 1}}, "data was"),
    ],
)
def test_another_run_is_not_resumed_silently(project, change, message):
    train(load_config(project(max_train_steps=2)))
    with pytest.raises(CheckpointError, match=message):
        train(load_config(project(**change)))


def test_a_change_of_data_can_be_allowed(project):
    train(load_config(project(max_train_steps=2)))
    changed = project(dataset={"repeats": 1}, max_train_steps=3, i_know_what_i_am_doing=True)
    assert train(load_config(changed)).step == 3


def test_a_finished_run_exports_again_without_another_step(project):
    first = train(load_config(project(max_train_steps=2)))
    before = first.exported.read_bytes()
    again = train(load_config(project(max_train_steps=2)))
    assert again.step == 2
    assert again.exported.read_bytes() == before
    assert not list(Path("output").glob("*.previous*"))
