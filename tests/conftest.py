"""Whole runs on a twin and real photographs, for tests that need more than one package."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from safetensors import deserialize

from tuner.types import Batch, ComponentRequest, Components, Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tuner.config.adapter import AdapterConfig
    from tuner.config.lycoris import LycorisConfig

# Packages of others: they are not installed here, and scripts/isolated.py runs their tests where they are.
collect_ignore = ["third_party"]

FAMILY = "sana"
Project = Callable[..., Path]


@pytest.fixture(scope="session")
def weights() -> Callable[[Path], dict[str, tuple[str, list[int], bytes]]]:
    """Return a file's tensors to the bit: dtype, shape and bytes by name. What it records of its run stays out."""

    def read(file: Path) -> dict[str, tuple[str, list[int], bytes]]:
        tensors = deserialize(file.read_bytes())
        return {name: (entry["dtype"], entry["shape"], bytes(entry["data"])) for name, entry in tensors}

    return read


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin of the family under test."""
    from tuner.cli.twins import write_twin
    from tuner.plugins import load_family

    return write_twin(load_family(FAMILY), tmp_path_factory.mktemp("twin") / "twin")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real photographs of three shapes, captions beside them."""
    from PIL import Image
    from skimage import data

    folder = tmp_path_factory.mktemp("photographs")
    shipped = {"astronaut": (160, 160), "chelsea": (192, 128), "coffee": (192, 128), "rocket": (192, 128)}
    for name, size in {**shipped, "hubble_deep_field": (160, 160), "motorcycle_left": (160, 160)}.items():
        file = next(Path(data.__file__).parent.glob(f"{name}.*"))
        Image.open(file).convert("RGB").resize(size).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a photograph of {name}\na picture, {name}\n")
    return folder


@pytest.fixture
def project(twin: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Write a project of a few steps into the working directory and return its configuration file."""
    monkeypatch.chdir(tmp_path)

    def write(lycoris: dict[str, Any] | None = None, dataset: dict[str, Any] | None = None, **settings: Any) -> Path:
        entry = {
            "id": "photographs",
            "instance_data_dir": str(photographs),
            "caption_strategy": "textfile",
            "resolution": 192,
            "resolution_type": "pixel_area",
            **(dataset or {}),
        }
        config = {
            "model_family": FAMILY,
            "model_type": "lora",
            "lora_type": "lycoris",
            "lycoris_config": "lycoris_config.json",
            "pretrained_model_name_or_path": str(twin),
            "data_backend_config": "multidatabackend.json",
            "output_dir": "output",
            "max_train_steps": 6,
            "train_batch_size": 2,
            "learning_rate": 1e-3,
            "lr_warmup_steps": 2,
            "optimizer": "optimi-adamw",
            "mixed_precision": "no",
            "validation_step_interval": 0,
            **settings,
        }
        lokr = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 4}
        Path("lycoris_config.json").write_text(json.dumps({**lokr, **(lycoris or {})}))
        Path("multidatabackend.json").write_text(json.dumps([entry]))
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return path

    return write


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Hash everything that a checkpoint in a folder holds, but for what names the run and the time."""

    def of(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("manifest.json", "training_state.json")
        }

    return of


@pytest.fixture(autouse=True)
def visible_log() -> Iterator[None]:
    """Let pytest see what the command line keeps to its own handler."""
    logger = logging.getLogger("tuner")
    propagate, logger.propagate = logger.propagate, True
    yield
    logger.propagate = propagate


class Runs:
    """Runs of one folder: one launch of two processes serves many of them."""

    def __init__(self, folder: Path, twin: Path, photographs: Path) -> None:
        self.folder = folder
        self._twins = {FAMILY: twin}
        entry = {
            "id": "photographs", "instance_data_dir": str(photographs), "caption_strategy": "textfile",
            "resolution": 192, "resolution_type": "pixel_area",
        }  # fmt: skip
        lokr = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 4}
        regularisation = {**entry, "id": "regularisation", "is_regularisation_data": True}
        kept_back = {**entry, "id": "kept back", "dataset_type": "eval"}
        for name, content in {
            "lycoris": lokr, "data": [entry], "regularised": [entry, regularisation], "evaluated": [entry, kept_back],
        }.items():  # fmt: skip
            (folder / f"{name}.json").write_text(json.dumps(content))

    def configure(self, name: str, **settings: Any) -> Path:
        """Write the configuration of a short run, by default of a LoKr."""
        values = {
            "model_family": FAMILY, "model_type": "lora", "lora_type": "lycoris", "lycoris_config": "lycoris.json",
            "data_backend_config": "data.json", "max_train_steps": 4, "output_dir": str(self.output_of(name)),
            "train_batch_size": 2, "learning_rate": 1e-3, "lr_warmup_steps": 0, "lr_scheduler": "constant",
            "optimizer": "optimi-adamw", "mixed_precision": "no", "validation_step_interval": 0,
            "cache_dir": str(self.folder / "cache"), "seed": 7, "log_interval": 1, "caption_dropout_probability": 0.5,
            **settings,
        }  # fmt: skip
        for key in ("lycoris_config", "data_backend_config"):
            values[key] = str(self.folder / values[key])
        values["pretrained_model_name_or_path"] = str(self._twin(values["model_family"]))
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(values))
        return path

    def output_of(self, name: str) -> Path:
        """Return the folder of a run's results."""
        return self.folder / f"output of {name}"

    def launch(self, program: str, configurations: list[Path]) -> list[dict[str, Any]]:
        """Run a program in two processes, and return what each has written to its `rank-N.json`."""
        (self.folder / "program.py").write_text(program)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*launcher, "program.py", *(path.name for path in configurations)], check=True, cwd=self.folder)
        return [json.loads((self.folder / f"rank-{rank}.json").read_text()) for rank in range(2)]

    def _twin(self, family: str) -> Path:
        from tuner.cli.twins import write_twin
        from tuner.plugins import load_family

        if family not in self._twins:
            self._twins[family] = write_twin(load_family(family), self.folder / f"twin of {family}")
        return self._twins[family]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, twin: Path, photographs: Path) -> Runs:
    """The runs of a module."""
    return Runs(tmp_path_factory.mktemp("runs"), twin, photographs)


class AdaptedTwin:
    """A family's twin, and adapters with random weights for it."""

    def __init__(self, name: str, folder: Path) -> None:
        from tuner.cli.twins import write_twin
        from tuner.config.adapter import AdapterConfig
        from tuner.config.lycoris import LycorisConfig
        from tuner.plugins import create_manager, load_family

        lokr = LycorisConfig(algo="lokr", multiplier=1.0, linear_dim=2, linear_alpha=3, factor=4, use_scalar=True)
        self.family = load_family(name)
        self.folder = write_twin(self.family, folder / "twin")
        self.hook = create_manager(self.family).hook
        self.lora = self._adapter(folder / "lora", AdapterConfig(lora_type="standard", lora_rank=4, lora_alpha=6), None)
        self.lokr = self._adapter(folder / "lokr", AdapterConfig(lora_type="lycoris"), lokr)

    def load(self, *parts: Part) -> Components:
        """Parts of the twin."""
        import torch

        options = self.family.facts.options()
        request = ComponentRequest(self.folder, frozenset(parts), torch.float32, torch.device("cpu"), options)
        return self.hook.load_components(request=request)

    def _adapter(self, folder: Path, adapter: AdapterConfig, lycoris: LycorisConfig | None) -> Path:
        import torch

        from tuner.adapters import create_trainable
        from tuner.provenance import Provenance
        from tuner.randomness import normal_tensor

        trainable = create_trainable(
            model_type="lora", adapter=adapter, lycoris=lycoris, facts=self.family.facts,
            denoiser=self.load("denoiser").denoiser, dtype=torch.float32, seed=1,
        )  # fmt: skip
        with torch.no_grad():
            for name, weight in trainable.named_parameters():
                weight.copy_(0.2 * normal_tensor(weight.shape, 0, name))
        texts = Provenance(family=self.family.facts.name, tuner_version="0", settings={"mixed_precision": "no"}).texts()
        return trainable.export(folder, texts)

    def velocity(self, denoiser: nn.Module) -> Tensor:
        """What a denoiser predicts for fixed noise and a fixed prompt."""
        import torch

        from tuner.randomness import normal_tensor

        components = self.load("text_encoders")
        components.denoiser = denoiser.eval()
        conditioning = self.hook.encode_prompt(components=components, prompts=["a cat"], role="caption")
        facts = self.family.facts
        shape = (1, facts.latent_channels, *((1,) if facts.name == "cosmos2" else ()), 4, 4)
        x = normal_tensor(shape, 0, "x")
        with torch.no_grad():
            return self.hook.compute_loss(
                components=components, batch=Batch(x, torch.tensor([0.5]), x, conditioning)
            ).velocity


@pytest.fixture(scope="session")
def adapted_twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], AdaptedTwin]:
    """Return a family's twin with adapters; each is made once."""
    return functools.cache(lambda name: AdaptedTwin(name, tmp_path_factory.mktemp(name)))


BROKEN_FAMILY = """
from dataclasses import replace

import torch

from tuner import hookimpl
from tuner_sana import plugin as sound

globals().update({name: getattr(sound, name) for name in dir(sound) if hasattr(getattr(sound, name), "tuner_impl")})


class ScaledCodec:
    version = "broken"

    def __init__(self, codec, encode=1.0, decode=1.0):
        self.codec, self.module, self.scales = codec, codec.module, (encode, decode)

    def encode(self, pixels_BCHW):
        return self.codec.encode(pixels_BCHW) * self.scales[0]

    def decode(self, latents):
        return self.codec.decode(latents * self.scales[1])
"""
"""What a family begins with that is Sana but for one mistake."""


class Outcome(NamedTuple):
    """Names of the proofs of a run of the conformance kit. One that failed for some of its cases has failed."""

    passed: set[str]
    skipped: set[str]
    failed: set[str]


class Kit:
    """Runs the conformance kit in this process."""

    def __init__(self, pytester: pytest.Pytester, twin: Path) -> None:
        self._pytester = pytester
        self._twin = twin

    def run(self, family: str, *arguments: str, twin: Path | None = None) -> Outcome:
        """Run it on a family, with Sana's twin or the one that is in a folder or shall be."""
        options = ("--tuner-family", family, "--tuner-twin", str(twin or self._twin))
        quiet = ("-p", "no:cacheprovider", "-p", "no:terminal")
        outcomes = self._pytester.inline_run(*options, *quiet, *arguments).listoutcomes()
        passed, skipped, failed = (
            {report.nodeid.split("::")[-1].split("[")[0] for report in reports} for reports in outcomes
        )
        return Outcome(passed - failed, skipped, failed)

    def run_with(self, name: str, mistake: str, proofs: str) -> Outcome:
        """Run proofs on Sana with a mistake in it."""
        package = self._pytester.mkpydir("broken")
        (package / f"{name}.py").write_text(BROKEN_FAMILY + dedent(mistake))
        self._pytester.syspathinsert()
        return self.run(f"broken.{name}", "-k", proofs)


@pytest.fixture(scope="session")
def kit_twin(twin: Path) -> Path:
    """The twin, after all that the kit needs was imported here, so that no inner run imports it again."""
    import tuner.adapters  # noqa: F401
    from tuner.plugins import load_family
    from tuner.testing.family import FamilyUnderTest

    family = FamilyUnderTest(FAMILY, load_family(FAMILY), twin)
    family.predict(family.batch())
    family.sampler()
    return twin


@pytest.fixture
def kit(pytester: pytest.Pytester, kit_twin: Path) -> Kit:
    """The conformance kit, on Sana's twin."""
    return Kit(pytester, kit_twin)
