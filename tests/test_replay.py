"""Values that are not finite stop a run, leave its checkpoints alone, and can be taken apart afterwards."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tuner.cli.main import main
from tuner.config.loading import load_config
from tuner.errors import NonFiniteError
from tuner.training.caches import latent_caches
from tuner.training.checkpoint import read_checkpoint
from tuner.training.interruption import StopRequest
from tuner.training.planning import open_index
from tuner.training.run import prepare_run, train
from tuner.training.watching import Watch

PLANTED = "photographs/coffee.png"


def plant(config: Path, value: float) -> None:
    """Fill the caches, and put `value` into a corner of the latent of one picture."""
    run = prepare_run(load_config(config), StopRequest())
    samples = [sample for bucket in run.data.plan.buckets for sample in bucket.samples]
    sample = next(sample for sample in samples if sample.key == PLANTED)
    session = run.session
    cache = latent_caches(session, session.config.datasets, open_index(session.config))["photographs"]
    latent = cache.read(sample).clone()
    latent[0, 0, 0] = value
    cache.store.discard([cache.key_of(sample)])
    with cache.store.writer(1) as writer:
        writer.add(cache.key_of(sample), {"latent": latent}, note=sample.key)


def contents(folder: str = "output") -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def stopped(config: Path, match: str) -> str:
    with pytest.raises(NonFiniteError, match=match) as caught:
        train(load_config(config))
    return str(caught.value)


@pytest.fixture
def exploded(project, monkeypatch):
    """A run that one picture of huge values stopped, with a checkpoint before that; its configuration and step."""
    settings = {"seed": 3, "checkpoint_step_interval": 1, "gradient_accumulation_steps": 2, "lora_dropout": 0.1}
    monkeypatch.setenv("TUNER_SECRET", "hf_secret")
    config = project(lora_type="standard", tracker_run_name="{env:TUNER_SECRET}", **settings)
    plant(config, 1e25)
    text = stopped(config, rf"of step \d+ is (nan|inf) \(seed 3, samples .*{PLANTED}#0")
    assert "last checkpoint is unharmed" in text
    (record,) = Path("output").glob("replay-*.json")
    assert f"`tuner replay {record}`" in text
    return config, record


def test_a_picture_that_breaks_a_step_is_named_and_the_step_repeated(exploded, capsys):
    config, record = exploded
    content = json.loads(record.read_text())
    step = content["step"]
    assert step > 1
    checkpoints = {path.name for path in Path("output").glob("checkpoint-*")}
    assert checkpoints == {f"checkpoint-{number}" for number in range(1, step)}
    assert read_checkpoint(Path(f"output/checkpoint-{step - 1}"))["step"] == step - 1
    losses = {sample["name"]: sample["loss"] for sample in content["samples"]}
    assert losses.pop(f"{PLANTED}#0") in ("nan", "inf")
    assert len(losses) == 3 and all(isinstance(loss, float) and loss > 0 for loss in losses.values())
    assert str(Path.cwd()) not in record.read_text() and "hf_secret" not in record.read_text()
    before = contents()
    assert main(["replay", str(record), str(config)]) == 0
    shown = capsys.readouterr().out
    assert f"step {step}, seed 3, from checkpoint-{step - 1}: loss {content['loss']}" in shown
    assert "these losses are those of the record, bit for bit" in shown
    assert f"not finite: step {step}, the " in shown
    assert contents() == before


def test_a_replay_from_the_start_is_the_same(exploded, capsys):
    config, record = exploded
    for path in Path("output").glob("checkpoint-*"):
        shutil.rmtree(path)
    assert main(["replay", str(record), str(config)]) == 0
    assert "from step 0" in capsys.readouterr().out
    assert main(["replay", str(record), str(config), "--train_batch_size=1"]) == 1
    assert "batch was '2 x 2' when the record was written" in capsys.readouterr().err


def test_a_replay_tells_what_differs(exploded, capsys):
    config, record = exploded
    content = json.loads(record.read_text())
    sound = next(sample for sample in content["samples"] if isinstance(sample["loss"], float))
    sound["loss"] += 1e-7
    content["settings"]["lr_warmup_steps"] = 7
    record.write_text(json.dumps(content))
    assert main(["replay", str(record), str(config)]) == 1
    shown = capsys.readouterr()
    assert "these losses are not those of the record" in shown.out
    assert "lr_warmup_steps was 7 and is 2" in shown.err
    assert main(["replay", str(record), str(config), "--train_batch_size=1"]) == 1
    assert "batch was '2 x 2' when the checkpoint was written" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["no-such.json"], ["--seed=3"]])
def test_a_replay_needs_a_record(arguments, capsys):
    assert main(["replay", *arguments]) == 2
    assert "tuner replay OUTPUT_DIR/replay-STEP.json" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"step": "x"}'])
def test_what_is_no_record_is_refused(project, text, capsys):
    Path("record.json").write_text(text)
    assert main(["replay", "record.json", str(project())]) == 1
    assert "record.json is no replay record" in capsys.readouterr().err


def test_a_cached_latent_that_is_not_finite_is_refused_when_it_is_read(project):
    config = project(seed=3, checkpoint_step_interval=1)
    plant(config, float("nan"))
    stopped(config, rf"the latent of {PLANTED} holds NaN or infinite values \(step \d, seed 3\)")


def test_weights_that_are_not_finite_are_named(project):
    run = prepare_run(load_config(project()), StopRequest())
    name, parameter = run.learner.trainable.named_parameters()[-1]
    watch = Watch(run.learner.trainable)
    watch.look_at_weights()
    assert watch.first is None
    parameter.data.view(-1)[0] = float("inf")
    watch.step = 4
    watch.look_at_weights()
    assert watch.first == f"step 4, the weight {name}, by the optimizer's update"


def test_a_replay_finds_the_module_where_it_begins(project, capsys):
    """Weights near the largest number that float32 holds: still finite, but not what they make."""
    config = project(learning_rate=1e37, checkpoint_step_interval=1)
    stopped(config, r"the loss of step 3 is nan")
    assert main(["replay", "output/replay-3.json", str(config)]) == 0
    first = capsys.readouterr().out.splitlines()[-1]
    assert "step 3, the " in first and "transformer_blocks.0." in first


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"grad_clip_method": "norm"}, "the gradient of step 2 is nan"),
        ({"log_interval": 2}, "the gradient of step 2 is nan"),
        ({"log_interval": 5, "checkpoint_step_interval": 2}, "the optimizer's update of step 2 gives NaN"),
        ({"log_interval": 5, "checkpoint_step_interval": 5}, "the loss of step 3 is nan"),
    ],
)
def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(project, settings, match):
    Path("output").mkdir()
    run = prepare_run(load_config(project(**settings)), StopRequest())
    _, parameter = run.learner.trainable.named_parameters()[0]
    calls = []

    def spoil(gradient):
        calls.append(None)
        return gradient * float("nan") if len(calls) == 2 else gradient

    parameter.register_hook(spoil)
    with pytest.raises(NonFiniteError, match=match):
        run.train()
    assert not [path for path in Path("output").glob("checkpoint-*") if path.name != "checkpoint-1"]
    assert torch.isnan(parameter).any()
