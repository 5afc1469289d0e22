"""A project folder with a model family of its own, `tuner configure` in a terminal, and a small network."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import pytest

from tuner.data.index import FileIndex

if TYPE_CHECKING:
    import torch
    from diffusers import SanaTransformer2DModel
    from torch import Tensor

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


@pytest.fixture
def index(tmp_path: Path) -> Iterator[FileIndex]:
    """A memo of files, empty at first."""
    opened = FileIndex(tmp_path / "cache")
    yield opened
    opened.close()


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


@pytest.fixture(scope="session")
def file_hashes() -> Callable[[Path], dict[str, str]]:
    """Return a hash of every file below a folder, by its path there."""

    def of(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    return of


@pytest.fixture
def new_answers() -> dict[str, str]:
    """Answers that make a configuration of the project."""
    return {
        "model_family": "toy",
        "model_type": "lora",
        "output_dir": "output",
        "max_train_steps": "10",
        "optimizer": "optimi-adamw",
        "learning_rate": "1e-4",
        "data_backend_config": "multidatabackend.json",
        "validation_prompt": "a cat",
        "lr_warmup_steps": "5",
    }


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


@pytest.fixture(scope="session")
def make_denoiser() -> Callable[..., SanaTransformer2DModel]:
    """Return what makes a small network of diffusers, always with the same weights."""
    import torch
    from diffusers import SanaTransformer2DModel

    def make(dtype: torch.dtype = torch.float32) -> SanaTransformer2DModel:
        torch.manual_seed(0)
        model = SanaTransformer2DModel(
            num_attention_heads=8,
            attention_head_dim=8,
            num_cross_attention_heads=4,
            cross_attention_head_dim=16,
            cross_attention_dim=64,
            caption_channels=32,
            num_layers=2,
            qk_norm="rms_norm_across_heads",
        )
        return (model if dtype == torch.float32 else model.to(dtype)).eval()

    return make


@pytest.fixture(scope="session")
def denoise() -> Callable[..., Tensor]:
    """Return what gives the output of such a network for inputs that are always the same."""
    import torch

    def run(model: SanaTransformer2DModel, dtype: torch.dtype = torch.float32) -> Tensor:
        values = torch.Generator().manual_seed(3)
        latents = torch.randn(2, 32, 4, 4, generator=values).to(dtype)
        text = torch.randn(2, 5, 32, generator=values).to(dtype)
        return model(latents, encoder_hidden_states=text, timestep=torch.tensor([100.0, 700.0])).sample

    return run
