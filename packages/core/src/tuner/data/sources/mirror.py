"""A folder that mirrors pictures from elsewhere, and the record of what it holds.

The record is a file of JSON lines in the folder: a later line about an address replaces an earlier one. A file is
written aside, named in the record, and then renamed into its place, so the record names every file that the mirror
wrote, whenever it was interrupted; the mirror touches no other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

CAPTIONS = ".captions.jsonl"
"""Name of the table of captions in a mirror: lines such as {"file": "a/b.jpg", "captions": ["a cat"]}."""

_RECORD = ".mirror.jsonl"
_LOCK = ".mirror.lock"
_INCOMING = ".incoming"


class Kept(NamedTuple):
    """A file of a mirror.

    Attributes:
        relative: Path below the mirror, with forward slashes.
        size: Bytes; -1 for one that may not be whole.
        stamp: What tells this version from others.
    """

    relative: str
    size: int
    stamp: str


class NameTaken(Exception):  # noqa: N818 - a source catches it; it never reaches a user
    """There is a file in the way that the mirror did not write for this address. Its text says so."""


@contextlib.contextmanager
def open_mirror(folder: Path) -> Iterator[Mirror]:
    """Open a mirror, once no other process writes to it.

    Args:
        folder: Made if it does not exist. It may hold files of others, which are left alone.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, incoming = FileLock(folder / _LOCK), folder / _INCOMING
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s is being written to by another process; waiting for it", folder)
        lock.acquire()
    try:
        shutil.rmtree(incoming, ignore_errors=True)  # left by an interrupted process; none other lives
        incoming.mkdir()
        mirror = Mirror(folder)
        try:
            yield mirror
        finally:
            mirror.close()
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
        lock.release()


class Mirror:
    """A mirror that this process alone writes to, see `open_mirror`. Its methods may be called from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._kept = read_record(folder)
        self._owners = {kept.relative: address for address, kept in self._kept.items()}
        self._record = self._compact()

    def close(self) -> None:
        """Close the record. The mirror cannot be used afterwards."""
        self._record.close()

    def holds(self, address: str, stamp: str) -> bool:
        """Whether the file of `address` is there, whole and in this version."""
        kept = self._kept.get(address)
        if kept is None or kept.stamp != stamp:
            return False
        try:
            return os.stat(self.folder / kept.relative).st_size == kept.size  # noqa: PTH116
        except OSError:
            return False

    def path_of(self, address: str) -> str:
        """Return the relative path of a file that the mirror holds."""
        return self._kept[address].relative

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """Give a path to write a new file to, for `keep`. What is not kept is removed."""
        path = self.folder / _INCOMING / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, incoming: Path, address: str, relative: str, stamp: str) -> None:
        """Move a file that was written to `incoming` into its place.

        Raises:
            NameTaken: Its place is taken by a file that is not the mirror's, or that belongs to another address.
            OSError: It cannot be moved.
        """
        target = self.folder / relative
        size = incoming.stat().st_size
        if not incoming.is_symlink():
            _flush_to_disk(incoming)
        with self._lock:
            owner = self._owners.get(relative)
            if owner != address and (owner is not None or os.path.lexists(target)):
                raise NameTaken(f"{self.folder} holds a file of its name that comes from elsewhere")
            former = self._kept.get(address)
            self._note(address, Kept(relative, -1, stamp))
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming.replace(target)
        with self._lock:
            self._note(address, Kept(relative, size, stamp))
            if former is not None and former.relative != relative:
                self._remove(former)

    def prune(self, addresses: Collection[str]) -> int:
        """Remove the files of all other addresses, unless somebody changed them; return how many."""
        gone = [address for address in self._kept if address not in addresses]
        for address in gone:
            self._remove(self._kept.pop(address))
        if gone:
            self._record.close()
            self._record = self._compact()
        return len(gone)

    def write_captions(self, captions: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Replace the table of captions by (relative path, captions)."""
        rows = ({"file": relative, "captions": list(texts)} for relative, texts in captions)
        self._write_lines(CAPTIONS, rows)

    def _note(self, address: str, kept: Kept) -> None:
        self._kept[address] = kept
        self._owners[kept.relative] = address
        self._record.write(json.dumps({"address": address, **kept._asdict()}) + "\n")
        self._record.flush()

    def _remove(self, kept: Kept) -> None:
        """Remove a file, and the folders that are empty without it."""
        path = self.folder / kept.relative
        self._owners.pop(kept.relative, None)
        with contextlib.suppress(OSError):
            if path.is_symlink() or kept.size in (-1, path.stat().st_size):
                path.unlink()
            for parent in path.parents:
                if parent == self.folder:
                    break
                parent.rmdir()

    def _compact(self) -> TextIO:
        """Write the record anew, a line for each file, and open it for more."""
        rows = ({"address": address, **kept._asdict()} for address, kept in self._kept.items())
        self._write_lines(_RECORD, rows)
        return (self.folder / _RECORD).open("a", encoding="utf-8")

    def _write_lines(self, name: str, rows: Iterable[Mapping[str, object]]) -> None:
        with self.incoming() as path:
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            _flush_to_disk(path)
            path.replace(self.folder / name)


def read_record(folder: Path) -> dict[str, Kept]:
    """Return what a mirror holds, by address. A line that was cut off says nothing."""
    record: dict[str, Kept] = {}
    try:
        with (folder / _RECORD).open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    record[str(row["address"])] = Kept(str(row["relative"]), int(row["size"]), str(row["stamp"]))
                except (ValueError, TypeError, KeyError):
                    continue
    except FileNotFoundError:
        pass
    return record


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
