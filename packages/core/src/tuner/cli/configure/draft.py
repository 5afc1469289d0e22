"""A JSON file that is being edited: what it held, what it is to hold, and writing it without losing anything."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.config.reader import read_document
from tuner.errors import ConfigError, Problem, TunerError

MISSING: Any = object()
"""Stands for a value that is not there, where None is a value."""

_OTHER_FORMATS = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML", ".env": "shell variables"}


@dataclass
class Draft:
    """The settings of a file, as spelt there, in their order.

    Attributes:
        path: The file.
        values: What it is to hold.
        before: What it holds, or None where it does not exist.
        content: Its bytes as they were read, None where it does not exist.
        warnings: What had to be forgiven on reading, and is lost on writing.
    """

    path: Path
    values: dict[str, Any]
    before: dict[str, Any] | None = None
    content: bytes | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether saving would change what the file says."""
        return self.before is None or as_json(self.values) != as_json(self.before)

    def find(self, names: Collection[str]) -> Any:
        """Return the value that stands under any of a setting's names, with or without dashes; or `MISSING`."""
        return next((self.values[spelling] for spelling in self._spellings(names)), MISSING)

    def put(self, names: tuple[str, ...], value: Any) -> None:
        """Set a value under the spelling that the file has, at its place; under the first name if it has none."""
        for spelling in self._spellings(names) or [names[0]]:
            self.values[spelling] = value

    def drop(self, names: Collection[str]) -> None:
        """Take a setting out."""
        for spelling in self._spellings(names):
            del self.values[spelling]

    def diff(self) -> list[str]:
        """Return the unified diff of the settings, without differences of mere notation."""
        before = [] if self.before is None else as_json(self.before).splitlines()
        origin = "/dev/null" if self.before is None else str(self.path)
        return list(
            difflib.unified_diff(before, as_json(self.values).splitlines(), origin, str(self.path), lineterm="")
        )

    def save(self) -> None:
        """Write the file beside its place and rename it, keeping its mode.

        Raises:
            TunerError: Somebody else changed the file since it was read.
        """
        target = Path(os.path.realpath(self.path))  # a link stays a link
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_file(target.parent, as_json(self.values)) as scratch:
            if target.exists():
                shutil.copymode(target, scratch)
            else:
                scratch.chmod(0o666 & ~_umask())
            if _content_of(target) != self.content:
                raise TunerError(
                    f"{self.path} was changed by somebody else since it was read; it was left as it is\n"
                    "    -> run `tuner configure` again"
                )
            scratch.replace(target)

    def _spellings(self, names: Collection[str]) -> list[str]:
        return [spelling for spelling in self.values if spelling.lstrip("-") in names]


def open_draft(path: Path) -> Draft:
    """Read a file to edit, which need not exist yet.

    Raises:
        ConfigError: It is no JSON file, cannot be read, or holds anything but an object.
    """
    if kind := _OTHER_FORMATS.get(path.suffix.lower()):
        message = f"holds {kind}, which `tuner configure` does not write, since comments and layout would be lost"
        raise ConfigError(
            [Problem(message, str(path), remedy="edit it by hand, or name a .json file to write instead")]
        )
    if path.is_dir():
        raise ConfigError([Problem("is a folder", str(path), remedy=f"name a file, such as {path / 'config.json'}")])
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not all(os.access(place, os.W_OK) for place in {existing, path.parent} if place.exists()):
        raise ConfigError([Problem("cannot be written", str(path), remedy="name a file in a folder of your own")])
    if existing != path:
        return Draft(path, {})
    content = _content_of(path)
    document = read_document(path)
    if not isinstance(document.values, dict):
        raise ConfigError([Problem(f"must be an object of settings, not {type(document.values).__name__}", str(path))])
    return Draft(path, dict(document.values), document.values, content, document.warnings)


def as_json(values: Any) -> str:
    """Return the text of a file that holds `values`."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def scratch_file(folder: Path, text: str) -> Iterator[Path]:
    """Write a hidden file in `folder`; whoever does not rename it sees it go."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=".configure-", suffix=".json")
    scratch = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


def _content_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError([Problem(f"cannot be read: {error}", str(path))]) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
