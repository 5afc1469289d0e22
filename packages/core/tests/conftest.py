"""A project folder with a model family of its own, and `tuner configure` in a terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

PLUGIN = """
from pydantic import BaseModel
from tuner import hookimpl
from tuner.types import FamilyFacts, Flavour, PartPolicy, QuantisationPolicy


class Options(BaseModel):
    model_config = {"extra": "forbid"}
    toy_strength: float = 1.0


@hookimpl
def describe_family():
    return FamilyFacts(
        name="toy", title="Toy", default_flavour="a",
        flavours={"a": Flavour("owner/a"), "b": Flavour("owner/b", setting_defaults={"toy_strength": 3.0})},
        latent_channels=4, latent_stride=8, patch_size=2, pixel_alignment=64, token_limit=77,
        adapter_targets=("to_q",),
        part_folders={"denoiser": ("transformer",), "text_encoders": ("text_encoder", "tokenizer")},
        licence="mit", options=Options,
        setting_defaults={"learning_rate": 1e-5, "flow_sigmoid_scale": 2.0},
        inert_settings={"flow_sigmoid_scale": "Toy draws its own", "ema_update_interval": "Toy has none"},
    )


@hookimpl
def quantisation_policy(options):
    denoiser = PartPolicy(
        ("no_change", "int8-quanto", "nf4-bnb"),
        {"int2-quanto": "too coarse for Toy"},
        discouraged={"int4-torchao": "no smaller than int8-torchao; use int4-quanto"},
    )
    return QuantisationPolicy(
        {"denoiser": denoiser, "text_encoders": PartPolicy(("no_change", "int8-quanto", "int8-torchao"))},
        one_library=("base_model_precision", "text_encoder_1_precision"),
    )


@hookimpl
def load_components(request): ...


@hookimpl
def encode_prompt(components, prompts, role): ...


@hookimpl
def compute_loss(components, batch): ...


@hookimpl
def validation_pipeline(components): ...


@hookimpl
def make_twin(folder): ...
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with a family, a data set file and a minimal configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toyfamily").mkdir()
    (tmp_path / "toyfamily" / "__init__.py").touch()
    (tmp_path / "toyfamily" / "plugin.py").write_text(PLUGIN)
    (tmp_path / "pictures").mkdir()
    entry = {"id": "pictures", "instance_data_dir": "pictures"}
    (tmp_path / "multidatabackend.json").write_text(json.dumps([entry]))
    return tmp_path


@pytest.fixture
def write_config(project) -> Callable[..., Path]:
    """Write the project's configuration: settings that every run needs, and those given."""

    def write(name: str = "config.json", without: tuple[str, ...] = (), **settings: Any) -> Path:
        minimal = {
            "model_family": "toyfamily.plugin",
            "model_type": "lora",
            "output_dir": "output",
            "optimizer": "optimi-adamw",
            "data_backend_config": "multidatabackend.json",
            "max_train_steps": 10,
        }
        values = {**minimal, **settings}
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: value for key, value in values.items() if key not in without}))
        return path

    return write


PROMPT = r"\x1b\[\?2004h.*?\x1b\[[0-9;]*m ([^\x1b:]+?)(?: \[[^\]]*\])?:"
"""What a terminal is sent when a question begins to wait for keys."""


class Terminal:
    """A terminal with `tuner configure` in it."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], deaf: bool) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        command = ["-m", "tuner", "configure", *arguments]
        self.child = pexpect.spawn(
            sys.executable,
            command,
            cwd=folder,
            env=environment,
            dimensions=(60, 200),
            timeout=60,
            encoding="utf-8",
            preexec_fn=_hear_no_hanging_up if deaf else None,
        )
        self.child.delaybeforesend = None  # a question that is shown already listens

    def wait(self, *names: str) -> str:
        """Wait for the next question, which must be one of those named if any are; return its name."""
        self.child.expect(PROMPT)
        name = str(self.child.match[1])
        assert not names or name in names, f"{name} is asked, not {names}"
        return name

    def answer(self, text: str | None = None) -> None:
        """Answer the question; Enter alone keeps what stands there."""
        self.child.send("\r" if text is None else f"\x15{text}\r")

    def ask_all(self, answers: dict[str, str]) -> list[str]:
        """Go through all usual questions and back to the menu; return their names."""
        self.wait("menu")
        self.answer("all usual")
        asked = []
        while (name := self.wait()) != "menu":
            asked.append(name)
            self.answer(answers.get(name))
        return asked

    def save(self) -> str:
        """Review and save, from the menu; return what the review shows."""
        self.answer("review")
        self.wait("save")
        shown = str(self.child.before)
        self.answer()
        return shown

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        self.child.expect(pexpect.EOF)
        self.rest = self.child.before
        self.child.close()
        return int(self.child.exitstatus)


def _hear_no_hanging_up() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


@pytest.fixture
def home(project: Path) -> Path:
    """A project whose family is installed."""
    info = project / "toyfamily-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toyfamily\nVersion: 3\n")
    (info / "entry_points.txt").write_text("[tuner.families]\ntoy = toyfamily.plugin\ntoyalias = toyfamily.plugin\n")
    return project


@pytest.fixture
def written(home: Path) -> Path:
    """A configuration as people have it: mixed spellings, texts for numbers, an order of their own."""
    path = home / "mine.json"
    text = """{
      "--optimizer": "optimi-adamw", "learning_rate": "4e-5", "model_family": "ToyAlias",
      "--model_type": "LORA", "output_dir": "output", "validation_steps": 7, "seed": "42",
      "data_backend_config": "multidatabackend.json", "--gradient_checkpointing": "false",
      "max_train_steps": 10, "num_train_epochs": 0, "toy_strength": "0.5", "lora_alpha": ""
    }"""
    path.write_text(text)
    return path


@pytest.fixture
def open_terminal(home: Path) -> Callable[..., Terminal]:
    """Start `tuner configure` in the project; `deaf`: it does not hear that the terminal hangs up."""
    return lambda *arguments, deaf=False: Terminal(home, arguments, deaf)
