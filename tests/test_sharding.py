"""A model that is shared out over processes trains as one that is not, and its files are the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.torch import load_file

from tuner.config.loading import load_config
from tuner.training.run import train

TOLERANCE = 1e-4
"""Relative difference of L2 norms: gradients are added up in another order, and Adam enlarges their rounding errors."""

PICTURES = {
    "validation_prompt": "a rocket", "validation_num_inference_steps": 2, "validation_resolution": "128",
    "validation_step_interval": 10, "eval_steps_interval": 10, "eval_timesteps": 3,
    "data_backend_config": "evaluated.json",
}  # fmt: skip
DEEPSPEED = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
KINDS = {
    "plain": {"checkpoint_step_interval": 2},
    "everything": {
        **PICTURES, "use_ema": True, "gradient_checkpointing": True, "grad_clip_method": "norm", "max_grad_norm": 0.05,
        "max_train_steps": 20, "optimizer": "optimi-stableadamw", "fsdp_reshard_after_forward": False,
    },
    "bf16": {
        "deepspeed_config": DEEPSPEED, "mixed_precision": "bf16", "optimizer": "adamw_bf16", "max_grad_norm": 0.01,
    },
}  # fmt: skip
FAMILIES = ("omnigen", "auraflow", "hidream", "cosmos2")
HALVES = {"gradient_accumulation_steps": 2}
SHARES = {"fsdp_enable": True}
TOGETHER = """
import json, sys
from pathlib import Path
import torch
from tuner.config.loading import load_config
from tuner.errors import TunerError
from tuner.training import run
from tuner.training.processes import join_processes

processes = join_processes()
found = {}
honest = run.build_learner

def looking(session, *, fresh):
    learner = honest(session, fresh=fresh)
    held = sum(parameter.to_local().numel() for _, parameter in learner.trainable.named_parameters())
    found[f"held of {path}"] = [held, learner.trainable.parameter_count()]
    return learner

run.build_learner = looking
for path in sys.argv[1:]:
    try:
        result = run.train(load_config(Path(path)))
        found[path] = ["done", result.step, str(result.exported)]
    except TunerError as error:
        found[path] = [type(error).__name__, str(error)]
Path(f"rank-{processes.rank}.json").write_text(json.dumps(found))
processes.leave()
"""


def spread(file: Path, other: Path) -> float:
    """The relative difference of two files' tensors."""
    tensors, others = load_file(file), load_file(other)
    assert tensors.keys() == others.keys()
    assert all(tensor.dtype == others[name].dtype for name, tensor in tensors.items())
    gap = sum(float((tensor.float() - others[name].float()).square().sum()) for name, tensor in tensors.items())
    size = sum(float(tensor.float().square().sum()) for tensor in tensors.values())
    return (gap / size) ** 0.5


@pytest.fixture(scope="module")
def configure(runs):
    return lambda name, **settings: runs.configure(name, **{"model_type": "full", **settings})


@pytest.fixture(scope="module")
def shared(runs, configure):
    """All runs of two processes, and those of one to compare them with: what each process says, by rank."""
    both = {kind: {**SHARES, **kept} for kind, kept in KINDS.items()}
    both["bf16"].pop("fsdp_enable")
    for kind, settings in KINDS.items():
        train(load_config(configure(f"{kind} alone", **settings, gradient_accumulation_steps=4)))
    train(load_config(configure("one then two", **HALVES, max_train_steps=2)))
    launched = [configure(f"{kind} shared", **settings, **HALVES) for kind, settings in both.items()]
    launched.append(configure("one then two", gradient_accumulation_steps=1, **SHARES))
    launched.append(configure("two then one", max_train_steps=2, **SHARES))
    launched.append(configure("refused", optimizer="adafactor", **SHARES))
    found = runs.launch(TOGETHER, launched)
    train(load_config(configure("two then one", **HALVES)))
    train(load_config(configure("alone", **HALVES)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_what_one_process_does_with_twice_the_accumulation(shared, runs, kind):
    assert_shared(shared, f"{kind} shared.json")
    compare(runs, kind, 2e-2 if kind == "bf16" else TOLERANCE)


@pytest.mark.long
def test_every_family_trains_what_one_process_does(runs, configure):
    each = {family: {"model_family": family, "max_train_steps": 2} for family in FAMILIES}
    for family, settings in each.items():
        train(load_config(configure(f"{family} alone", **settings, gradient_accumulation_steps=4)))
    found = runs.launch(
        TOGETHER, [configure(f"{name} shared", **own, **HALVES, **SHARES) for name, own in each.items()]
    )
    for family in FAMILIES:
        assert_shared(found, f"{family} shared.json")
        compare(runs, family, TOLERANCE)


def assert_shared(found: list[dict], name: str) -> None:
    """Make sure that a run came to its end, and that each of two processes held its part of the model alone."""
    assert [each[name][0] for each in found] == ["done", "done"]
    (own, whole), (other, _) = (each[f"held of {name}"] for each in found)
    assert own + other == whole
    assert 0.4 < own / whole < 0.6


def compare(runs, kind: str, tolerance: float) -> None:
    """Compare the files of a run in one process with those of one in two, and the metrics."""
    alone, both = runs.output_of(f"{kind} alone"), runs.output_of(f"{kind} shared")
    files = sorted(path.relative_to(alone) for path in alone.rglob("*.safetensors"))
    assert len(files) >= 4
    assert files == sorted(path.relative_to(both) for path in both.rglob("*.safetensors"))
    for file in files:
        assert spread(alone / file, both / file) < tolerance, file
    rows, others = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (alone, both)
    )
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        assert all(value == pytest.approx(other[key], rel=tolerance) for key, value in row.items())


def test_the_main_process_alone_exports(shared, runs):
    assert shared[0]["plain shared.json"] == ["done", 4, str(runs.output_of("plain shared") / "pipeline")]
    assert shared[1]["plain shared.json"] == ["done", 4, "None"]


def test_the_pipeline_is_that_of_the_family(shared, runs):
    configs = [
        (runs.output_of(f"plain {how}") / "pipeline" / "transformer" / "config.json").read_text()
        for how in ("alone", "shared")
    ]
    assert configs[0] == configs[1]
    assert json.loads(configs[0])["_class_name"] == "SanaTransformer2DModel"


@pytest.mark.parametrize("name", ["one then two", "two then one"])
def test_a_run_goes_on_shared_out_or_not(shared, runs, name):
    state = "checkpoint-4/transformer/diffusion_pytorch_model.safetensors"
    assert (runs.output_of(f"{name}") / "checkpoint-2").is_dir()
    assert spread(runs.output_of("alone") / state, runs.output_of(f"{name}") / state) < TOLERANCE


def test_pictures_and_evaluations_are_those_of_one_process(shared, runs):
    alone, both = (runs.output_of(f"everything {how}") for how in ("alone", "shared"))
    pictures = sorted(path.relative_to(alone) for path in alone.rglob("*.png"))
    assert pictures == sorted(path.relative_to(both) for path in both.rglob("*.png"))
    assert len(pictures) == 2 + 2 * 2 * 3  # of two prompts: the base model's; each round's two, and their sheet
    assert len({(both / path).read_bytes() for path in pictures}) == len(pictures)
    for path in pictures:
        gap = np.asarray(Image.open(alone / path), dtype=float) - np.asarray(Image.open(both / path), dtype=float)
        assert abs(gap).max() <= 1, path
    rows, others = (
        [json.loads(line) for line in (path / "evaluations.jsonl").read_text().splitlines()] for path in (alone, both)
    )
    assert len(rows) == 1 + 2 * 2
    for row, other in zip(rows, others, strict=True):
        assert (row["step"], row["label"]) == (other["step"], other["label"])
        assert row["metrics"] == pytest.approx(other["metrics"], rel=1e-4)


def test_an_optimizer_that_is_not_proven_for_it_is_refused(shared):
    for found in shared:
        kind, message = found["refused.json"]
        assert kind == "ConfigError"
        assert "adafactor is not proven to be right for weights that are shared out" in message


@pytest.mark.long
def test_a_run_ends_when_one_of_its_processes_is_killed(configure):
    config = configure("killed", num_processes=2, max_train_steps=100_000, fsdp_enable=True)
    command = [sys.executable, "-m", "tuner", "train", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = []
    while not said or b"starting from step 0" not in said[-1]:
        said.append(process.stdout.readline())
        assert said[-1], b"".join(said).decode()
    workers = sorted(psutil.Process(process.pid).children(), key=lambda worker: int(worker.environ()["RANK"]))
    workers[1].kill()
    output = process.communicate()[0].decode()
    assert process.returncode == 1, output
    assert "process 1 was killed by signal 9" in output
    assert "Traceback" not in output
    assert not any(worker.is_running() for worker in workers)
