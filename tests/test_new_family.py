"""`tuner new-family` writes a package that installs, is listed, and says what is still to be written."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

# pytester forgets what is first imported in its tests, and parts of torch and bitsandbytes can be imported only once.
import diffusers.models.modeling_utils  # noqa: F401
import pytest
import torch
from packaging.requirements import Requirement

import tuner.adapters  # noqa: F401 - as above
from tuner import __version__
from tuner.cli.main import main
from tuner.errors import PluginError
from tuner.plugins import create_manager, load_family
from tuner.types import Batch, ComponentRequest, Components, NoOptions

pytest_plugins = ["pytester"]

UNWRITTEN = {
    "load_components": "loading.py",
    "encode_prompt": "text.py",
    "compute_loss": "velocity.py",
    "validation_pipeline": "pipeline.py",
    "make_twin": "twin.py",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "tuner-model-bright_star2"
    assert main(["new-family", "bright_star2", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def wheel(package) -> Path:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(package)], check=True, capture_output=True
    )
    (file,) = (package / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """A folder of installed packages that holds the new one as pip would unpack it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_package_has_the_files_that_families_have(package):
    written = {path.name for path in (package / "src" / "tuner_bright_star2").iterdir()}
    sana = Path(importlib.import_module("tuner_sana").__file__).parent
    assert written <= {path.name for path in sana.iterdir()}
    assert {"__init__.py", "facts.py", "policy.py", *UNWRITTEN.values()} <= written
    assert (package / "tests" / "test_bright_star2_facts.py").is_file()
    for path in (path for path in package.rglob("*") if path.suffix in {".py", ".md", ".toml"}):
        assert "newfamily" not in f"{path.name}{path.read_text()}".lower()
    assert "bright_star2" in (package / "README.md").read_text()


def test_it_requires_this_core(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    (core,) = [
        requirement
        for requirement in map(Requirement, Parser().parsestr(metadata).get_all("Requires-Dist"))
        if requirement.name == "tuner-core"
    ]
    assert __version__ in core.specifier
    major, minor = map(int, __version__.split(".")[:2])
    assert f"{major}.{minor + 1}.0" not in core.specifier


def test_installed_it_is_listed(site):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "tuner", "families", "--json"]
    listed = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert listed["broken"] == []
    (family,) = [family for family in listed["families"] if family["name"] == "bright_star2"]
    assert (family["title"], family["package"], family["version"]) == (
        "Bright Star2",
        "tuner-model-bright_star2",
        "0.1.0",
    )


def test_installed_it_passes_its_tests_and_the_structural_proofs(site, package, pytester, monkeypatch):
    monkeypatch.syspath_prepend(site)
    outcome = pytester.inline_run(
        "-c", f"{package}/pyproject.toml", f"{package}/tests", "-k", "facts.py", "-p", "no:terminal"
    )
    passed, skipped, failed = outcome.listoutcomes()
    assert [report.nodeid for report in (*skipped, *failed)] == []
    files = {report.nodeid.split("::")[0].rsplit("/")[-1] for report in passed}
    assert files == {"test_facts.py", "test_bright_star2_facts.py"}
    assert len(passed) >= 8


@pytest.mark.parametrize(("hook", "file"), UNWRITTEN.items())
def test_a_hook_to_be_written_names_its_file(site, tmp_path, monkeypatch, hook, file):
    monkeypatch.syspath_prepend(site)
    components, x = Components(tmp_path, NoOptions()), torch.zeros(1, 16, 4, 4)
    arguments = {
        "load_components": {
            "request": ComponentRequest(
                tmp_path, frozenset({"denoiser"}), torch.float32, torch.device("cpu"), NoOptions()
            )
        },
        "encode_prompt": {"components": components, "prompts": ("a cat",), "role": "caption"},
        "compute_loss": {"components": components, "batch": Batch(x, torch.zeros(1), x, {})},
        "validation_pipeline": {"components": components},
        "make_twin": {"folder": tmp_path / "twin"},
    }
    hooks = create_manager(load_family("bright_star2")).hook
    with pytest.raises(PluginError, match="still to be written") as raised:
        getattr(hooks, hook)(**arguments[hook])
    assert str(site / "tuner_bright_star2" / file) in str(raised.value)


@pytest.mark.parametrize("name", ["", "Flux", "2flux", "flux-2", "flux/2", "class", "größe", "flux 2"])
def test_other_names_are_refused(name, tmp_path, capsys):
    assert main(["new-family", name, str(tmp_path / "new")]) == 1
    assert repr(name) in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_name_of_an_installed_family_is_refused(tmp_path, capsys):
    assert main(["new-family", "sana", str(tmp_path / "new")]) == 1
    assert "tuner-model-sana" in capsys.readouterr().err


@pytest.mark.parametrize("taken", ["folder", "file"])
def test_nothing_is_overwritten(taken, tmp_path, capsys):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    assert main(["new-family", "fresh", str(tmp_path if taken == "folder" else mine)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mine.txt", "mine")]


def test_an_empty_folder_is_filled(tmp_path):
    assert main(["new-family", "fresh", str(tmp_path)]) == 0
    assert (tmp_path / "src" / "tuner_fresh" / "facts.py").is_file()
