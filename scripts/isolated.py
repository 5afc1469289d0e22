"""Run each package's own tests, and the conformance kit on its families, with nothing else installed.

`python scripts/isolated.py [--jobs N] [PACKAGE ...]`: for each package folder (all of `packages/` if none is given),
build its wheel and the core's, install the two alone in a clean environment under `.venv-clean/`, and test there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import clean_env
from wheels import CORE, ROOT, Wheel, build_wheel

WORK = ROOT / ".venv-clean"


def main() -> int:
    """Test the packages; return 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", type=Path, metavar="PACKAGE", help="folders (default: all of packages/)")
    parser.add_argument("--jobs", type=int, default=1, help="packages to test at a time (default: 1)")
    options = parser.parse_args()
    packages = [path.resolve() for path in options.packages] or sorted((ROOT / "packages").iterdir())
    core = build_wheel(CORE, WORK / "core-wheel")
    with ThreadPoolExecutor(options.jobs) as pool:
        passed = list(pool.map(partial(check_package, core=core), packages))
    return 0 if all(passed) else 1


def check_package(package: Path, core: Wheel) -> bool:
    """Build, install and test one package, say how it went, and return whether all is well."""
    began = time.monotonic()
    try:
        wheel = core if package == CORE else build_wheel(package, WORK / f"{package.name}-wheel")
        files = dict.fromkeys([core.file, wheel.file])
        python = clean_env.create(WORK / package.name, files, extra="test")
        report = _run_tests(python, package, _check_installed(python, wheel))
    except SystemExit as failure:
        print(f"FAILED  {package.name}: {failure}", flush=True)
        return False
    print(f"passed  {package.name}: {report} ({time.monotonic() - began:.0f} s in all)", flush=True)
    return True


def _check_installed(python: Path, wheel: Wheel) -> list[str]:
    """Check that the core and this package are there, from their wheels, and no other; return the families."""
    code = "import sys, tuner; sys.exit(not tuner.__file__.startswith(sys.prefix) and tuner.__file__)"
    _run([str(python), "-c", code])
    listed = json.loads(_run([str(python.with_name("tuner")), "families", "--json"]))
    found = {name for family in listed["families"] for name in (family["name"], *family["aliases"])}
    if found != wheel.families or listed["broken"]:
        raise SystemExit(f"`tuner families` lists {listed} where {sorted(wheel.families)} are installed")
    return [family["name"] for family in listed["families"]]


def _run_tests(python: Path, package: Path, families: list[str]) -> str:
    """Run a package's own tests, together with the kit if it has a family; return pytest's last lines."""
    # No conftest.py from above the package: its tests must not need one.
    alone = ["-p", "no:cacheprovider", f"--confcutdir={package}"]
    command = [str(python), "-m", "pytest", "-q", *alone, str(package / "tests")]
    kits = [["--tuner-family", family] for family in families] or [[]]
    return ", ".join(_run([*command, *kit]).strip().splitlines()[-1] for kit in kits)


def _run(command: list[str]) -> str:
    """Run a command and return what it prints.

    Raises:
        SystemExit: It failed.
    """
    # What the caller's shell adds to the import path is not installed in the clean environment.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
