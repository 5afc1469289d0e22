"""Processes that train one model together give what one process gives, and end together."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tuner.config.loading import load_config
from tuner.errors import CheckpointError
from tuner.training.interruption import StopRequest
from tuner.training.run import prepare_run, train

TOLERANCE = 1e-4
"""Relative difference of L2 norms: gradients are added up in another order, and Adam enlarges their rounding errors."""

STANDARD = {"lora_type": "standard", "lora_rank": 4, "lora_dropout": 0.3, "gradient_checkpointing": False}
PICTURES = {
    "validation_prompt": "a rocket", "validation_num_inference_steps": 2, "validation_resolution": "128",
    "validation_step_interval": 3,
}  # fmt: skip
KINDS = {
    # Buckets of three pictures give batches of two and of one, so the processes have unequal shares of a step, and now
    # and then one of them has no regularisation data.
    "lokr": {"use_ema": True, "data_backend_config": "regularised.json"},
    "lora with dropout": {**STANDARD, **PICTURES, "grad_clip_method": "norm", "max_grad_norm": 1.0},
    "full": {"model_type": "full", "learning_rate": 1e-4, "checkpoint_step_interval": 2},
    "lokr in fp16": {"mixed_precision": "fp16"},
}
TOGETHER = """
import json, os, sys
from pathlib import Path
import torch
from tuner.config.loading import load_config
from tuner.errors import TunerError
from tuner.training import loop
from tuner.training.processes import join_processes
from tuner.training.reduction import sum_gradients, sum_parts
from tuner.training.run import train

processes = join_processes()
rank = processes.rank
found = {}

parameters = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3)]
parameters[rank].grad = torch.full((2, 3), 1.0 + rank)
parameters.append(torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)))
parameters[3].grad = torch.full((2,), 1.0 + rank, dtype=torch.bfloat16)
sum_gradients(parameters, processes)
found["gradients"] = [None if p.grad is None else p.grad.tolist() for p in parameters]
parts = {"shared": torch.tensor(1.0 + rank), f"only {rank}": torch.tensor(3.0)}
parts = sum_parts(parts, processes, torch.device("cpu"))
found["parts"] = {name: value.item() for name, value in parts.items()}
found["turns"] = processes.in_turn(lambda: rank)
try:
    processes.on_main(lambda: 1 / 0)
except Exception as error:
    found["main failed"] = type(error).__name__
try:
    processes.check_same(rank, "number")
except TunerError as error:
    found["not the same"] = str(error)

honest = loop.backward_step

def poisoned(*arguments, **options):
    losses = honest(*arguments, **options)
    losses.samples[0].fill_(float("nan"))
    return losses._replace(total=losses.total * float("nan"))

for path in sys.argv[1:]:
    loop.backward_step = poisoned if rank == 1 and "poisoned" in path else honest
    try:
        result = train(load_config(Path(path)))
        found[path] = ["done", result.step, str(result.exported)]
    except TunerError as error:
        found[path] = [type(error).__name__, str(error)]
Path(f"rank-{rank}.json").write_text(json.dumps(found))
processes.leave()
"""


def spread(file: Path, other: Path) -> float:
    """The largest relative difference of two files' tensors."""
    tensors, others = load_file(file), load_file(other)
    assert tensors.keys() == others.keys()
    return max(
        float((tensor.float() - others[name].float()).norm() / tensor.float().norm().clamp_min(1e-6))
        for name, tensor in tensors.items()
    )


@pytest.fixture(scope="module")
def together(runs):
    """All runs of two processes, and those of one to compare them with: what each process says, by rank."""
    configure, halves = runs.configure, {"gradient_accumulation_steps": 2}
    for kind, settings in KINDS.items():
        train(load_config(configure(f"{kind} alone", **settings, gradient_accumulation_steps=4)))
    train(load_config(configure("one then two", **halves, max_train_steps=2)))
    both = [configure(f"{kind} together", **settings, **halves) for kind, settings in KINDS.items()]
    both.append(configure("one then two", gradient_accumulation_steps=1))
    both.append(configure("two then one", max_train_steps=2))
    both.append(configure("poisoned", log_interval=1))
    found = runs.launch(TOGETHER, both)
    train(load_config(configure("two then one", **halves)))
    train(load_config(configure("alone", **halves)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_does_with_twice_the_accumulation(together, runs, kind):
    alone, both = runs.output_of(f"{kind} alone"), runs.output_of(f"{kind} together")
    files = sorted(path.relative_to(alone) for path in alone.rglob("*.safetensors"))
    assert len(files) >= 3
    assert files == sorted(path.relative_to(both) for path in both.rglob("*.safetensors"))
    for file in files:
        assert spread(alone / file, both / file) < TOLERANCE, file
    assert together[0][f"{kind} together.json"][:2] == together[1][f"{kind} together.json"][:2] == ["done", 4]


def test_only_the_main_process_exports_and_reports(together, runs):
    assert together[0]["lokr together.json"][2] == str(
        runs.output_of("lokr together") / "pytorch_lora_weights.safetensors"
    )
    assert together[1]["lokr together.json"][2] == "None"
    alone, both = (
        [json.loads(line) for line in (runs.output_of(f"lokr {how}") / "metrics.jsonl").read_text().splitlines()]
        for how in ("alone", "together")
    )
    assert [row["step"] for row in both] == [1, 2, 3, 4]
    for row, other in zip(alone, both, strict=True):
        assert row.keys() == other.keys()
        assert (row["regularisation_loss"] > 0) == (row["step"] > 1)  # the adapter begins at zero
        assert all(value == pytest.approx(other[key], rel=1e-3) for key, value in row.items())


@pytest.mark.parametrize("name", ["one then two", "two then one"])
def test_a_run_goes_on_with_another_number_of_processes(together, runs, name):
    state = "checkpoint-4/adapter_state.safetensors"
    assert (runs.output_of(f"{name}") / "checkpoint-2").is_dir()
    assert spread(runs.output_of("alone") / state, runs.output_of(f"{name}") / state) < TOLERANCE


def test_a_run_of_other_batches_does_not_go_on(together, runs):
    config = runs.configure("two then one", gradient_accumulation_steps=3, max_train_steps=6)
    with pytest.raises(CheckpointError, match="batch was '2 x 2' when the checkpoint was written and is '2 x 3' now"):
        train(load_config(config))


def test_a_loss_that_is_not_finite_in_one_process_stops_all(together, runs):
    kinds, messages = zip(*(found["poisoned.json"] for found in together), strict=True)
    assert kinds == ("NonFiniteError", "NonFiniteError")
    assert all(message.startswith("the loss of step 1 is nan") for message in messages)
    record = json.loads((runs.output_of("poisoned") / "replay-1.json").read_text())
    assert [sample["loss"] == "nan" for sample in record["samples"]].count(True) in (1, 2)
    assert len(record["samples"]) > 1
    assert all(sample["name"] in messages[1] for sample in record["samples"])
    assert not list((runs.output_of("poisoned")).glob("checkpoint-*"))


def test_pictures_are_made_once(together, runs):
    alone, both = (
        [path.name for path in sorted((runs.output_of(f"lora with dropout {how}")).rglob("*.png"))]
        for how in ("alone", "together")
    )
    assert (
        len(alone) == 2 + 2 * 4
    )  # the base model's; of two rounds each picture, and its sheet beside the base model's
    assert both == alone


def test_a_gradient_is_the_sum_of_all_and_missing_where_nobody_has_one(together):
    assert together[0]["gradients"] == [[[1.0] * 3] * 2, [[2.0] * 3] * 2, None, [3.0] * 2]
    assert together[1]["gradients"] == together[0]["gradients"]


def test_metrics_are_added_up_by_name(together):
    assert together[0]["parts"] == together[1]["parts"] == {"only 0": 3.0, "only 1": 3.0, "shared": 3.0}


def test_processes_wait_for_each_other_and_hear_of_failures(together):
    assert [found["turns"] for found in together] == [0, 1]
    assert [found["main failed"] for found in together] == ["ZeroDivisionError", "ProcessesError"]
    assert "process 1 has another number than process 0: 1 and 0" in together[0]["not the same"]
    assert "process 0 has another number than process 1: 0 and 1" in together[1]["not the same"]


def test_micro_batches_are_shared_out_and_do_not_depend_on_the_process(project):
    run = prepare_run(load_config(project(gradient_accumulation_steps=4)), StopRequest())
    whole = run.source.step(3)
    shares = [replace(run.source, rank=rank, processes=2) for rank in range(2)]
    assert [share.size(3) for share in shares] == [run.source.size(3)] * 2
    assert run.source.size(3).samples == sum(len(batch.keys) for batch in whole)
    taken = [batch for pair in zip(*(share.step(3) for share in shares), strict=True) for batch in pair]
    assert [batch.keys for batch in taken] == [batch.keys for batch in whole]
    for batch, other in zip(taken, whole, strict=True):
        assert torch.equal(batch.noise, other.noise)
        assert torch.equal(batch.sigma, other.sigma)
        assert torch.equal(batch.latents, other.latents)


def test_a_process_that_was_to_have_company_takes_all_batches_and_says_so(project, caplog):
    run = prepare_run(load_config(project(num_processes=2, gradient_accumulation_steps=2)), StopRequest())
    assert len(run.source.step(0)) == 4
    assert run.identity["batch"] == "2 x 4"
    run.session.processes.expect(2)
    assert "num_processes is 2, but this process was launched alone" in caplog.text


def started(config: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """Start a long run and return it and its processes, by rank, when it begins to train."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner", "train", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = []
    while not said or b"starting from step 0" not in said[-1]:
        said.append(process.stdout.readline())
        assert said[-1], b"".join(said).decode()
    workers = psutil.Process(process.pid).children()
    return process, sorted(workers, key=lambda worker: int(worker.environ()["RANK"]))


def test_an_interrupted_run_saves_a_checkpoint_and_goes_on(project):
    config = project(num_processes=2, max_train_steps=100_000, log_interval=1)
    process, workers = started(config)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0].decode()
    assert process.returncode == 130, output
    (checkpoint,) = Path("output").glob("checkpoint-*")
    step = json.loads((checkpoint / "training_state.json").read_text())["step"]
    assert f"interrupted after step {step}; resume with the same command" in output
    assert output.count("interrupted after") == 1
    assert not any(worker.is_running() for worker in workers)


def test_processes_without_a_launcher_save_a_checkpoint_and_end(project):
    process, workers = started(project(num_processes=2, max_train_steps=100_000))
    process.kill()
    assert "interrupted after" in process.communicate()[0].decode()
    psutil.wait_procs(workers)
    assert len(list(Path("output").glob("checkpoint-*"))) == 1


def test_a_run_ends_when_one_of_its_processes_is_killed(project):
    process, workers = started(project(num_processes=2, max_train_steps=100_000, log_interval=1))
    workers[1].kill()
    output = process.communicate()[0].decode()
    assert process.returncode == 1, output
    assert "process 1 was killed by signal 9" in output
    assert "Traceback" not in output
    assert not any(worker.is_running() for worker in workers)
