"""Whole runs that download a twin from a hub on loopback and publish to it, and the code that their cards show."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download
from PIL import Image
from safetensors.torch import load_file

from tuner.config.loading import load_config
from tuner.testing.hub import loopback_hub
from tuner.testing.hub_state import WRITE_TOKEN
from tuner.training.run import train

WEIGHTS = "pytorch_lora_weights.safetensors"
PROMPT = 'a "cat"\n``` on <b>a [mat](x)</b> | \\'
PICTURES = {
    "validation_prompt": PROMPT,
    "validation_step_interval": 4,
    "validation_resolution": "128x192",
    "validation_num_inference_steps": 3,
    "validation_guidance": 3.0,
    "validation_disable_unconditional": True,
}
KINDS = {
    "lora": {"lora_type": "standard", "learning_rate": 3e-2},
    "lokr": {"lora_type": "lycoris", "learning_rate": 3e-2},
    "full": {"model_type": "full", "learning_rate": 3e-3},
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with loopback_hub() as hub:
        hub.adopt(monkeypatch, tmp_path / "client")
        yield hub


def code_of(card: str) -> str:
    (code,) = re.findall(r"^(`{3,})python\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)
    return code[1]


def run_code(code: str) -> np.ndarray:
    names: dict = {}
    exec(compile(code, "card", "exec"), names)
    assert np.array_equal(np.asarray(Image.open("picture.png")), np.asarray(names["picture"]))
    return np.asarray(names["picture"], dtype=float)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=float)


def check_code(card: ModelCard, output: Path) -> None:
    """The picture that the code makes is that of validation, but for roundings of bfloat16."""
    made = run_code(code_of(str(card)))
    trained = pixels(output / "validation_images/live/step_4_validation_0_128x192.png")
    base = pixels(output / "benchmarks/base_model/step_0_validation_0_128x192.png")
    assert np.abs(made - trained).mean() < 0.02 * np.abs(base - trained).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_the_card_makes_the_picture_that_validation_made(hub, project, twin, monkeypatch, kind):
    settings = {**KINDS[kind], **PICTURES, "max_train_steps": 4, "mixed_precision": "bf16"}
    train(load_config(project(**settings, push_to_hub=True)))
    output = Path("output").resolve()
    repository = Path(snapshot_download(f"someone/sana-{kind}-output"))
    result = output / "pipeline" if kind == "full" else output
    for file in result.rglob("*.safetensors") if kind == "full" else [output / WEIGHTS]:
        assert (repository / file.relative_to(result)).read_bytes() == file.read_bytes()
    card = ModelCard.load(repository / "README.md")
    shown = [(entry["text"], Path(entry["output"]["url"]).name) for entry in card.data.widget]
    assert shown == [(PROMPT, "step_4_validation_0_128x192.png")]
    assert (repository / card.data.widget[0]["output"]["url"]).is_file()
    assert f"someone/sana-{kind}-output" in code_of(str(card))
    hub.requests.clear()
    # The same run again has no step left, so it exports anew: the same pictures, but no repository.
    train(load_config(project(**settings)))
    local = ModelCard.load(output / "README.md")
    assert not [path for _, path in hub.requests if "someone" in path]
    assert [(entry["text"], Path(entry["output"]["url"]).name) for entry in local.data.widget] == shown
    assert "someone" not in str(local)
    for text in (str(card), str(local)):
        assert str(output) not in text
        assert str(twin.parent) not in text
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(output)  # the code is read beside the card
    Path("twin").symlink_to(twin)
    check_code(card, output)
    check_code(local, output)


def start(config: Path, environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "tuner", "train", str(config)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


def test_a_model_comes_from_the_hub_and_an_upload_that_was_left_is_made_by_the_same_command(
    hub, project, twin, tmp_path
):
    hub.publish("owner/model", twin)
    before = hub.repositories["owner/model"].head
    config = project(
        max_train_steps=2, lora_type="standard", pretrained_model_name_or_path="owner/model",
        push_to_hub=True, hub_model_id="mine", output_dir="from hub",
    )  # fmt: skip
    go_on = threading.Event()

    def fault(method, path):
        if path.endswith("/commit/main"):
            go_on.wait()

    hub.fault = fault
    process = start(config, hub.environment(tmp_path / "home"))
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "waiting for uploads to someone/mine" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait() == 0, "".join(lines)
    assert "the result of 2 steps was not uploaded to someone/mine: it was left" in lines[-1]
    assert hub.repositories["someone/mine"].commits == ["initial commit"]
    go_on.set()
    exported = Path("from hub", WEIGHTS)
    again = start(config, hub.environment(tmp_path / "home"))
    _, log = again.communicate()
    assert again.returncode == 0, log
    assert WRITE_TOKEN not in log + "".join(lines)
    published = hub.repositories["someone/mine"]
    assert published.commits[-1] == "the result of 2 steps"
    assert published.files[WEIGHTS] == exported.read_bytes()
    card = ModelCard(published.files["README.md"].decode())
    assert (card.data.base_model, card.data.base_model_relation) == ("owner/model", "adapter")
    assert json.loads(published.files["settings.json"])["output_dir"] == "from hub"
    assert not [
        path for path in Path("from hub").rglob("*") if path.is_file() and WRITE_TOKEN.encode() in path.read_bytes()
    ]
    # Nothing is written to the base model, and what was trained on it is what is trained on the same folder.
    assert hub.repositories["owner/model"].head == before
    train(load_config(project(max_train_steps=2, lora_type="standard")))
    local, remote = load_file(f"output/{WEIGHTS}"), load_file(exported)
    assert local.keys() == remote.keys()
    assert all(torch.equal(local[name], remote[name]) for name in local)
