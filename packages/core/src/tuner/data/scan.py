"""Finding the pictures below a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from tuner.data.images import IMAGE_SUFFIXES


class Found(NamedTuple):
    """A picture file that a scan came across.

    Attributes:
        relative: Path below the scanned folder, with forward slashes.
        path: Absolute path.
        size: Bytes.
        mtime_ns: Time of the last change, in nanoseconds.
    """

    relative: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """What a scan found.

    Attributes:
        images: Picture files, sorted by relative path.
        other: Suffix -> number of files that are no pictures.
        unreadable: Relative path -> why nothing can be read there.
    """

    images: tuple[Found, ...]
    other: Mapping[str, int]
    unreadable: Mapping[str, str]


def absolute(path: Path | str) -> str:
    """Return a path as `Found.path` has it: absolute, without "..", links as they are."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links


def list_images(folder: Path) -> Listing:
    """List the pictures in `folder` and its sub-folders. Hidden files and folders are passed over.

    Symbolic links are followed, each folder is entered once however many links lead to it.

    Raises:
        OSError: `folder` itself is missing or cannot be listed.
    """
    images: list[Found] = []
    other: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    for entry, relative, suffix in _walk(absolute(folder), unreadable):
        if suffix not in IMAGE_SUFFIXES:
            other[suffix] += 1
            continue
        try:
            relative.encode()
            status = entry.stat()
        except UnicodeEncodeError:
            unreadable[relative.encode(errors="backslashreplace").decode()] = "has a name that is not valid UTF-8"
        except OSError as error:
            unreadable[relative] = f"cannot be opened: {error.strerror}"
        else:
            images.append(Found(relative, entry.path, status.st_size, status.st_mtime_ns))
    images.sort(key=attrgetter("relative"))
    return Listing(tuple(images), dict(sorted(other.items())), dict(sorted(unreadable.items())))


def _walk(root: str, unreadable: dict[str, str]) -> Iterator[tuple[os.DirEntry[str], str, str]]:
    """Yield (entry, relative path, suffix in lower case) of every file that is not hidden."""
    pending = [(root, "")]
    entered = {_identity(root)}
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as handle:
                entries = list(handle)
        except OSError as error:
            if not prefix:
                raise
            unreadable[prefix] = f"cannot be listed: {error.strerror}"
            continue
        folders = []
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(name)
            else:
                dot = name.rfind(".")
                yield entry, prefix + name, name[dot:].lower() if dot > 0 else ""
        for name in sorted(folders):  # sorted, so that it is always the same link that wins
            path = os.path.join(folder, name)  # noqa: PTH118
            identity = _identity(path)
            if identity not in entered:
                entered.add(identity)
                pending.append((path, f"{prefix}{name}/"))


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino
