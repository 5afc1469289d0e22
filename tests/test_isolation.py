"""The clean environments that packages are tested in are clean, and the checks of their wheels find faults."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "packages" / "core"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield


@pytest.fixture(scope="module")
def wheels():
    return importlib.import_module("wheels")


@pytest.fixture(scope="module")
def core(wheels, tmp_path_factory):
    return wheels.build_wheel(CORE, tmp_path_factory.mktemp("wheel"))


def test_a_clean_environment_holds_the_wheel_and_what_it_requires(core, tmp_path):
    importlib.import_module("tuner_sana")
    importlib.import_module("jsonschema")  # both are here
    python = importlib.import_module("clean_env").create(tmp_path / "env", [core.file], extra="test")
    code = (
        "import importlib.metadata as metadata, importlib.util as util, tuner\n"
        "print(tuner.__file__)\n"
        "print(sorted({entry.name for entry in metadata.entry_points(group='tuner.families')}))\n"
        "print([name for name in ('torch', 'pytest', 'tuner_sana', 'jsonschema', 'pip') if util.find_spec(name)])"
    )
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    file, families, found = done.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path / "env")
    assert families == "[]"
    assert found == "['torch', 'pytest']"


def test_a_requirement_that_is_not_here_is_named(core, wheels, tmp_path):
    package = tmp_path / "package"
    (package / "src" / "stray").mkdir(parents=True)
    (package / "src" / "stray" / "__init__.py").touch()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "stray"\nversion = "1"\ndependencies = ["tuner-core>=0.1,<0.2", "nosuchpackage>=2"]\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["src/stray"]\n'
    )
    wheel = wheels.build_wheel(package, tmp_path / "wheel")
    with pytest.raises(SystemExit, match="nosuchpackage>=2 is not installed"):
        importlib.import_module("clean_env").create(tmp_path / "env", [core.file, wheel.file], extra="test")


INFO = f"tuner_core-{importlib.metadata.version('tuner-core')}.dist-info"
FAULTS = {
    "tests": ({"tuner/tests/test_x.py": ""}, "holds tests"),
    "a compiled file": ({"tuner/__pycache__/x.pyc": ""}, "compiled"),
    "a second module": ({"tuner_sana/__init__.py": ""}, "more than tuner"),
    "a family": ({f"{INFO}/entry_points.txt": "[tuner.families]\nx = tuner.x\n"}, "the core has a family"),
    "another version": ({f"{INFO}/METADATA": "Name: tuner-core\nVersion: 9\n"}, "its version is 9"),
    "another licence": ({f"{INFO}/licenses/LICENSE": "mine"}, "licence"),
    "no types": ({"tuner/py.typed": None}, "typed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_wheels_are_found(core, wheels, fault):
    changes, message = FAULTS[fault]
    contents = wheels.read_wheel(core.file)
    assert wheels.find_faults(CORE, contents) == []
    for name, text in changes.items():
        if text is None:
            del contents[name]
        else:
            contents[name] = text
    assert any(message in found for found in wheels.find_faults(CORE, contents))


def test_the_wheel_says_the_version_that_the_command_says(core):
    done = subprocess.run([sys.executable, "-m", "tuner", "--version"], check=True, capture_output=True, text=True)
    assert core.file.name.split("-")[1] == done.stdout.split()[-1]
