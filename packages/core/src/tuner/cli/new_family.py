"""Writing the skeleton of a family package: the files of `skeleton/` under another name."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from tuner.errors import TunerError
from tuner.plugins import installed_families

SKELETON = Path(__file__).parent / "skeleton"


def write_family(name: str, folder: Path) -> list[Path]:
    """Write a package for a new family, whose hooks are still to be written, and return its files.

    Args:
        name: Name of the family, as users will write it.
        folder: Folder of the package, absent or empty.

    Raises:
        TunerError: The name is not one for a family, or is that of an installed one, or the folder holds something.
    """
    _check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TunerError(f"{folder} is not empty; a package is written to a new folder\n    -> choose another one")
    files = []
    for template in sorted(SKELETON.rglob("*")):
        if not template.is_file() or "__pycache__" in template.parts:
            continue
        file = folder / _renamed(str(template.relative_to(SKELETON)), name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_renamed(template.read_text(encoding="utf-8"), name), encoding="utf-8")
        files.append(file)
    return files


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise TunerError(
            f"{name!r} cannot be the name of a family: it must begin with a lowercase letter and hold only lowercase "
            "letters, digits and underscores\n    -> such as lumina2"
        )
    entry = installed_families().get(name)
    if entry is not None:
        raise TunerError(
            f"model family {name!r} is installed already, by {entry.package} {entry.version}; names must differ\n"
            "    -> choose another one"
        )


def _renamed(text: str, name: str) -> str:
    return text.replace("NewFamily", name.replace("_", " ").title()).replace("newfamily", name)
