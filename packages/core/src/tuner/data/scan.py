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
    for prefix, files in _walk(absolute(folder), unreadable):
        for entry in files:
            name = entry.name
            dot = name.rfind(".")
            suffix = name[dot:].lower() if dot > 0 else ""
            if suffix not in IMAGE_SUFFIXES:
                other[suffix] += 1
                continue
            relative = prefix + name
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


def _walk(root: str, unreadable: dict[str, str]) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield (relative path of a folder, with a slash at its end; its files) without what is hidden."""
    pending = [(root, "")]
    entered = {_identity(root)}
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as handle:
                entries = [entry for entry in handle if not entry.name.startswith(".")]
        except OSError as error:
            if not prefix:
                raise
            unreadable[prefix] = f"cannot be listed: {error.strerror}"
            continue
        files: list[os.DirEntry[str]] = []
        folders: list[str] = []
        for entry in entries:
            try:
                if entry.is_dir():
                    folders.append(entry.name)
                else:
                    files.append(entry)
            except OSError as error:  # a link that leads in a circle, or where nobody may look
                unreadable[f"{prefix}{entry.name}"] = f"cannot be opened: {error.strerror}"
        yield prefix, files
        for name in sorted(folders):  # sorted, so that it is always the same link that wins
            path = os.path.join(folder, name)  # noqa: PTH118
            identity = _identity(path)
            if identity not in entered:
                entered.add(identity)
                pending.append((path, f"{prefix}{name}/"))


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino
