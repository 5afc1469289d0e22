"""Virtual environments that hold chosen wheels, what these require, and nothing else.

Requirements are not downloaded: they are linked from the environment that runs this, one distribution at a time.
So nothing that is merely installed there is importable in the new one, and neither are editable packages.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def create(folder: Path, wheels: Iterable[Path], extra: str) -> Path:
    """Make a fresh environment in `folder` with `wheels` installed, and return its interpreter.

    Args:
        folder: Replaced if it exists.
        wheels: Wheels to install. They may require each other.
        extra: Extra of every wheel whose requirements are wanted too, where it has one.

    Raises:
        SystemExit: A requirement is not installed here, or is here in a version that does not satisfy the wheels.
    """
    wheels = list(wheels)
    if folder.exists():
        shutil.rmtree(folder)
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    packages = Path(_run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for distribution in _closure(wheels, extra):
        _link(distribution, packages)
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
    _run(*pip, "install", "--quiet", "--no-deps", "--no-index", *map(str, wheels))
    _run(*pip, "check")
    return python


def _closure(wheels: Iterable[Path], extra: str) -> Iterator[importlib.metadata.Distribution]:
    """Find what the wheels require, directly or not, themselves left out."""
    own = {wheel: _metadata(wheel) for wheel in wheels}
    names = {canonicalize_name(metadata.name) for metadata in own.values()}
    waiting = [needed for metadata in own.values() for needed in _requirements(metadata, {extra})]
    seen: set[tuple[str, frozenset[str]]] = set()
    yielded: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        request = (name, frozenset(requirement.extras))
        if name in names or request in seen:
            continue
        seen.add(request)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(f"{requirement} is not installed beside {sys.executable}: make install") from None
        waiting.extend(_requirements(distribution, set(requirement.extras)))
        if name not in yielded:
            yielded.add(name)
            yield distribution


def _metadata(wheel: Path) -> importlib.metadata.Distribution:
    return next(iter(importlib.metadata.distributions(path=[str(wheel)])))


def _requirements(distribution: importlib.metadata.Distribution, extras: set[str]) -> Iterator[Requirement]:
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def _link(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    """Link a distribution's files and folders, the topmost ones, into `packages`."""
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in {"..", "__pycache__"}}
    for top in tops:
        link = packages / top
        if not link.exists():  # several distributions may share a folder, such as `google`
            link.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
