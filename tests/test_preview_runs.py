"""Whole runs that tell a real server what they do: pictures while they are sampled, and why a run failed."""

import base64
import io
import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tuner.config.loading import load_config
from tuner.errors import NonFiniteError, TunerError
from tuner.testing.servers import Listener, serving
from tuner.testing.tiny import write_tiny_autoencoder
from tuner.training.run import train

SETTINGS = {
    "max_train_steps": 2,
    "learning_rate": 1e-2,
    "lr_warmup_steps": 0,
    "validation_prompt": "a cat",
    "validation_disable_unconditional": True,
    "disable_benchmark": True,
    "validation_step_interval": 1,
    "validation_resolution": "64",
    "validation_num_inference_steps": 20,
    "validation_guidance": 1.0,
}


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Listener()) as listener:
        yield listener


def result(config) -> tuple[dict[str, torch.Tensor], dict[str, bytes]]:
    """Train; return the adapter and the pictures."""
    exported = train(load_config(config)).exported
    pictures = {path.name: path.read_bytes() for path in Path("output/validation_images").iterdir()}
    Path("output").rename(f"output-{len(list(Path().glob('output*')))}")
    return load_file(str(next(Path().glob("output-*")) / exported.name)), pictures


def hook(port: int) -> dict[str, str]:
    return {"webhook_type": "raw", "callback_url": f"http://127.0.0.1:{port}/"}


def test_previews_are_sent_and_change_nothing(project, listener, tmp_path, caplog):
    tiny = str(write_tiny_autoencoder(tmp_path / "tiny", 32, 32))
    plain = result(project(**SETTINGS))
    previewing = {"validation_preview": True, "validation_preview_steps": 5, "validation_preview_autoencoder": tiny}
    seen = result(project(**SETTINGS, **previewing, webhook_config=hook(listener.server_port)))
    assert seen[1] == plain[1] and len(plain[1]) == 2
    assert all(torch.equal(plain[0][name], tensor) for name, tensor in seen[0].items())
    kinds = [body["type"] for body in listener.bodies]
    of_a_step = [*["validation.image"] * 4, "validation.images"]
    assert kinds == ["run.started", *of_a_step, "checkpoint.saved", *of_a_step, "run.ended"]
    previews = [body for body in listener.bodies if body["type"] == "validation.image"]
    assert [(body["data"]["step"], body["data"]["sampling_step"]) for body in previews] == [
        (step, number) for step in (1, 2) for number in (5, 10, 15, 20)
    ]
    times = [body["data"]["timestep"] for body in previews[:4]]
    assert times == sorted(times, reverse=True) and times[-1] < 10 < times[0] < 1000
    shown = [Image.open(io.BytesIO(base64.b64decode(body["images"][0]))) for body in previews]
    assert {picture.size for picture in shown} == {(64, 64)}
    assert len({picture.tobytes() for picture in shown}) == 8
    final = next(body for body in listener.bodies if body["type"] == "validation.images")
    assert base64.b64decode(final["images"][0]) == plain[1]["step_1_validation_0_64x64.png"]
    assert "webhook" not in caplog.text


def ended(listener, config, error, match: str) -> dict[str, object]:
    """Train until it fails; return what the server was told last."""
    with pytest.raises(error, match=match):
        train(load_config(config))
    last = listener.bodies[-1]
    assert (last["type"], last["level"], last["data"]["outcome"]) == ("run.ended", "critical", "failed")
    assert last["message"].endswith(f": {last['data']['reason']}")
    assert str(Path.cwd()) not in json.dumps(listener.bodies)
    return last


def test_a_run_that_fails_before_its_first_step_is_told_of(project, listener, twin):
    shutil.copytree(twin, "broken")
    (weights,) = Path("broken/vae").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    folder = str(Path("broken").absolute())
    config = project(webhook_config=hook(listener.server_port), pretrained_model_name_or_path=folder)
    last = ended(listener, config, TunerError, "AutoencoderDC could not be loaded")
    assert [body["type"] for body in listener.bodies] == ["run.ended"]
    assert last["message"].startswith("the run has failed, before its first step (output): ")
    assert last["data"]["reason"].startswith("vae: AutoencoderDC could not be loaded: ")


def test_a_run_that_fails_later_says_why(project, listener):
    config = project(webhook_config=hook(listener.server_port), learning_rate=1e30, lr_warmup_steps=0, log_interval=1)
    last = ended(listener, config, NonFiniteError, "of step")
    assert [body["type"] for body in listener.bodies] == ["run.started", "run.ended"]
    assert "samples photographs/" in last["data"]["reason"]
    record = json.loads(Path("output/index.html").read_text().split('id="record">')[1].split("</script>")[0])
    assert (record["state"], record["reason"]) == ("failed", last["data"]["reason"])


def test_a_webhook_that_is_down_and_a_wrong_autoencoder_stop_no_run(project, caplog, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tiny = write_tiny_autoencoder(tmp_path / "tiny", 4, 32)
    previewing = {"validation_preview": True, "validation_preview_autoencoder": str(tiny)}
    settings = {**SETTINGS, "max_train_steps": 1, "validation_num_inference_steps": 2}
    assert train(load_config(project(**settings, **previewing, webhook_config=hook(port)))).exported.is_file()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("tuner.")]
    warnings = [text for text in told if "webhook" in text or "tiny" in text]
    assert len(warnings) == 3
    assert warnings[0].endswith("is for latents of 4 channels, not 32\n    -> the run goes on without previews")
    assert warnings[1].startswith("webhook 1 (raw) cannot be reached (ConnectionError)")
    assert warnings[2] == "webhook 1 (raw): 4 of 4 messages were not delivered"
