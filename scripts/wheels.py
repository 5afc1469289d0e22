"""Wheels of packages, and what must be in them."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "packages" / "core"


@dataclass(frozen=True)
class Wheel:
    """A package's wheel.

    Attributes:
        package: Folder of the package.
        file: The wheel.
        families: Names of its model families, aliases included.
    """

    package: Path
    file: Path
    families: frozenset[str]


def build_wheel(package: Path, folder: Path) -> Wheel:
    """Build the wheel of `package` into `folder`, which is then its only one, and check what is in it.

    Raises:
        SystemExit: It cannot be built, or something is missing in it or superfluous.
    """
    for old in folder.glob("*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{package} cannot be built\n{done.stdout}{done.stderr}")
    (file,) = folder.glob("*.whl")
    contents = read_wheel(file)
    faults = find_faults(package, contents)
    if faults:
        raise SystemExit("\n".join([f"{file.name}:", *(f"  {fault}" for fault in faults)]))
    return Wheel(package, file, frozenset(_entry_points(contents).get("tuner.families", {})))


def read_wheel(file: Path) -> dict[str, str]:
    """Return the files of a wheel by their paths in it."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name).decode("utf-8", "replace") for name in archive.namelist()}


def find_faults(package: Path, contents: dict[str, str]) -> list[str]:
    """List what is missing in the wheel of `package`, superfluous or not as its pyproject.toml says."""
    with (package / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    tops = {name.split("/")[0] for name in contents}
    modules = {top for top in tops if not top.endswith(".dist-info")}
    metadata = Parser().parsestr(_info(contents, "METADATA"))
    # What `tuner new-family` writes has tests, but they are not the core's own.
    tests = [name for name in contents if "/tests/" in name and "/skeleton/tests/" not in name]
    needed = [text for text in metadata.get_all("Requires-Dist", []) if text.startswith("tuner-core")]
    checks = {
        f"its name is {metadata['Name']}, not {project['name']}": metadata["Name"] == project["name"],
        f"its version is {metadata['Version']}, not {project['version']}": metadata["Version"] == project["version"],
        f"its entry points are not those of pyproject.toml: {_entry_points(contents)}": _entry_points(contents)
        == _declared_entry_points(project),
        f"it must hold one module, not {sorted(modules)}": len(modules) == 1,
        f"it holds tests: {tests}": not tests,
        "it holds compiled files": not [name for name in contents if "__pycache__" in name],
    }
    if package == CORE:
        checks["the core has a family"] = "tuner.families" not in _entry_points(contents)
        checks["the core holds more than tuner"] = modules == {"tuner"}
    else:
        checks["it must require one version range of tuner-core"] = len(needed) == 1 and "<" in needed[0]
        checks["it holds files of the core"] = "tuner" not in modules
    if package.is_relative_to(ROOT / "packages"):
        licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
        checks["its licence file is not the repository's"] = _info(contents, "licenses/LICENSE") == licence
        checks["it does not say that it is typed"] = f"{min(modules)}/py.typed" in contents
    return [fault for fault, fine in checks.items() if not fine]


def _info(contents: dict[str, str], name: str) -> str:
    """Return a file of the wheel's metadata; empty if there is none."""
    return next((text for path, text in contents.items() if path.endswith(f".dist-info/{name}")), "")


def _entry_points(contents: dict[str, str]) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(_info(contents, "entry_points.txt"))
    return {group: dict(parser[group]) for group in parser.sections()}


def _declared_entry_points(project: dict[str, Any]) -> dict[str, dict[str, str]]:
    scripts = {"console_scripts": project["scripts"]} if "scripts" in project else {}
    return {**scripts, **project.get("entry-points", {})}
