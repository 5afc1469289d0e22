"""An extension that is installed may weight the loss of a whole run."""

import json
import math
from pathlib import Path

import pytest
import torch

from tuner.config.loading import load_config
from tuner.training.interruption import StopRequest
from tuner.training.run import prepare_run, train
from tuner.training.step import Learning, prepare_batch, sample_losses

SOURCE = Path(__file__).parent / "third_party" / "tuner-min-snr" / "src"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install the example of the guide for a test."""
    folder = tmp_path / "installed"
    info = folder / "tuner_min_snr-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tuner-min-snr\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[tuner.extensions]\nmin-snr = tuner_min_snr:create\n")

    def install():
        monkeypatch.syspath_prepend(SOURCE)
        monkeypatch.syspath_prepend(folder)

    return install


def losses_of_first_step(config):
    run = prepare_run(load_config(config), StopRequest())
    learner = run.learner
    learning = Learning(run.session.hook, learner.components, learner.trainable, torch.device("cpu"), torch.float32)
    (drawn,) = run.source.step(0)
    learner.components.denoiser.train()
    losses, _ = sample_losses(learning, prepare_batch(learning, drawn))
    return drawn.sigma, losses.detach()


def test_an_extension_weights_the_loss_of_a_run(project, installed):
    config = project(dataset={"crop": True}, log_interval=1, output_dir="weighted", lr_warmup_steps=0)
    sigma, plain = losses_of_first_step(config)
    train(load_config(project(dataset={"crop": True}, log_interval=1, output_dir="plain", lr_warmup_steps=0)))
    installed()
    config = project(dataset={"crop": True}, log_interval=1, output_dir="weighted", lr_warmup_steps=0)
    result = train(load_config(config))
    rows = {
        name: [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "weighted")
    }
    assert rows["plain"][0]["loss"] == pytest.approx(plain.mean().item(), rel=1e-6)
    weight = [min((1 - value) ** 2, 5 * value**2) for value in sigma.tolist()]
    expected = sum(w * loss for w, loss in zip(weight, plain.tolist(), strict=True)) / len(weight)
    assert rows["weighted"][0]["loss"] == pytest.approx(expected, rel=1e-6)
    assert not math.isclose(expected, plain.mean().item(), rel_tol=0.01)
    # It is learnt from, not only shown.
    assert rows["weighted"][0]["grad_max_abs"] != pytest.approx(rows["plain"][0]["grad_max_abs"], rel=0.01)
    assert result.exported.read_bytes() != Path("plain", result.exported.name).read_bytes()
