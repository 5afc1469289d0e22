"""`tuner configure` with real families: what it writes trains, what people have stays as it is."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pexpect
import pytest
from PIL import Image

from tuner.cli.main import main
from tuner.config.loading import load_config

ROOT = Path(__file__).parents[1]
FILES = [*sorted((ROOT / "examples").glob("*/config*.json")), *sorted(ROOT.glob("tests/user_files/*/config.json"))]
PROMPT = r"\x1b\[\?2004h.*?\x1b\[[0-9;]*m ([^\x1b:]+?)(?: \[[^\]]*\])?:"
"""What a terminal is sent when a question begins to wait for keys."""


def configure(*arguments: str, answers: dict[str, str] | None = None) -> str:
    """Answer all usual questions, save, and return what the terminal showed last."""
    environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(sys.executable, ["-m", "tuner", "configure", *arguments], env=environment,
                          dimensions=(60, 200), timeout=60, encoding="utf-8")  # fmt: skip
    child.delaybeforesend = None  # a question that is shown already listens
    menu = iter(["all usual", "review"])
    shown = ""
    while (name := _question(child)) != "save":
        answer = next(menu) if name == "menu" else (answers or {}).get(name)
        child.send("\r" if answer is None else f"\x15{answer}\r")
    shown = child.before
    child.send("\r")
    child.expect(pexpect.EOF)
    shown += child.before
    child.close()
    assert child.exitstatus == 0
    return shown


def _question(child: pexpect.spawn) -> str:
    child.expect(PROMPT)
    return child.match[1]


def digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_a_configuration_from_nothing_trains(project, twin):
    project().unlink()
    Path("lycoris_config.json").unlink()
    datasets = Path("multidatabackend.json").read_bytes()
    answers = {
        "model_family": "sana", "model_flavour": "weights of", "pretrained_model_name_or_path": str(twin),
        "model_type": "lora", "output_dir": "output", "lora_type": "lycoris", "lycoris_config": "lycoris_config.json",
        "factor": "4", "max_train_steps": "1", "train_batch_size": "2", "optimizer": "optimi-adamw",
        "learning_rate": "1e-3", "lr_warmup_steps": "0", "mixed_precision": "no",
        "data_backend_config": "multidatabackend.json", "validation_step_interval": "0",
    }  # fmt: skip
    shown = configure(answers=answers)
    assert "The configuration is in order." in shown
    config, lokr = Path("config/config.json"), Path("config/lycoris_config.json")
    assert json.loads(lokr.read_text())["factor"] == 4
    assert load_config(config).config.optimisation.learning_rate == 1e-3
    assert main(["train", str(config)]) == 0
    assert Path("output/pytorch_lora_weights.safetensors").is_file()
    state = json.loads(Path("output/checkpoint-1/training_state.json").read_text())
    assert state["settings"]["learning_rate"] == 1e-3
    assert Path("multidatabackend.json").read_bytes() == datasets


@pytest.mark.parametrize("file", FILES, ids=lambda path: "-".join(path.parts[-3:]))
def test_unchanged_answers_leave_every_file_as_it_is(file, tmp_path, monkeypatch):
    shutil.copytree(file.parent, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    before = digests(tmp_path)
    assert "nothing changed, nothing was written" in configure(f"mine/{file.name}")
    assert digests(tmp_path) == before


def test_one_answer_changes_one_setting_of_an_example(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples" / "hidream", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    before, path = digests(tmp_path), tmp_path / "examples" / "config.json"
    expected = {**json.loads(path.read_text()), "learning_rate": 3e-5}
    shown = configure("examples/config.json", answers={"learning_rate": "3e-5"})
    assert '+  "learning_rate": 3e-05' in shown
    assert json.loads(path.read_text()) == expected
    assert [name for name, digest in digests(tmp_path).items() if before[name] != digest] == [str(path)]


def test_the_examples_to_copy_pass_the_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    for name in ("config.json", "user_prompt_library.json"):
        shutil.copy(ROOT / "config" / f"{name}.example", Path("config", name))
    Path("pictures").mkdir()
    for number in range(2):
        Image.new("RGB", (1024, 1024), (90 * number, 120, 200)).save(f"pictures/{number}.png")
        Path(f"pictures/{number}.txt").write_text("a plain colour")
    Path("config/multidatabackend.json").write_text(json.dumps([{"id": "mine", "instance_data_dir": "pictures"}]))
    assert main(["check"]) == 0
    shown, warnings = capsys.readouterr()
    assert "1024x1024" in shown
    assert "warning" not in warnings
    loaded = load_config(Path("config/config.json"))
    assert loaded.unread == {}
    assert len(loaded.config.prompts) == 4
