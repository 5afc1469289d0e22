"""A memo of what was read from files, so that planning again opens no picture.

It holds nothing that cannot be read again. Whatever befalls it costs time, never a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from tuner.data.scan import absolute

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS headers (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, width INTEGER, height INTEGER, error TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, content_hash TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (
    tokenizer TEXT, text_hash BLOB, tokens INTEGER, PRIMARY KEY (tokenizer, text_hash)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS faces (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER,
    "left" INTEGER, "top" INTEGER, "right" INTEGER, "bottom" INTEGER
) WITHOUT ROWID;
"""
_LOCK_PATIENCE_S = 5.0

T = TypeVar("T")


class HeaderRow(NamedTuple):
    """What a picture's header said when the file had this size and time.

    Attributes:
        path: Absolute path.
        size: Bytes of the file.
        mtime_ns: Time of its last change, in nanoseconds.
        width: Pixels as shown; 0 if the header is unreadable.
        height: Pixels as shown; 0 if the header is unreadable.
        error: Why the header is unreadable, or None.
    """

    path: str
    size: int
    mtime_ns: int
    width: int
    height: int
    error: str | None


class FaceRow(NamedTuple):
    """The largest face that was found in a picture when the file had this size and time.

    Attributes:
        path: Absolute path.
        size: Bytes of the file.
        mtime_ns: Time of its last change, in nanoseconds.
        left: Of the face, in pixels of the picture as shown; None, as the others, if there is no face.
        top: Likewise.
        right: Likewise.
        bottom: Likewise.
    """

    path: str
    size: int
    mtime_ns: int
    left: int | None
    top: int | None
    right: int | None
    bottom: int | None


class FileIndex:
    """The memo: an SQLite file `files.sqlite` in `folder`. May be shared by threads and by processes.

    A damaged file is moved aside and begun anew; where none can be written, the memo lives in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / "files.sqlite"
        self._lock = threading.RLock()
        self._connection = self._open()

    def close(self) -> None:
        """Close the file. The index cannot be used afterwards."""
        with self._lock:
            self._connection.close()

    def headers_below(self, folder: str) -> dict[str, HeaderRow]:
        """Return what is known about the headers of the files below `folder`, by absolute path."""
        query = "SELECT * FROM headers WHERE path >= ? AND path < ?"
        make = HeaderRow._make
        return self._attempt(
            lambda: {row[0]: make(row) for row in self._connection.execute(query, _below(folder))},
            {},
        )

    def store_headers(self, rows: Iterable[HeaderRow]) -> None:
        """Remember headers, in one transaction."""
        self._write("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?, ?, ?)", list(rows))

    def forget_headers(self, paths: Iterable[str]) -> None:
        """Forget the headers of files that are gone, in one transaction."""
        self._write("DELETE FROM headers WHERE path = ?", [(path,) for path in paths])

    def faces_below(self, folder: str) -> list[FaceRow]:
        """Return what is known about faces in the files below `folder`."""
        query = "SELECT * FROM faces WHERE path >= ? AND path < ?"
        return self._attempt(lambda: list(map(FaceRow._make, self._connection.execute(query, _below(folder)))), [])

    def store_faces(self, rows: Iterable[FaceRow]) -> None:
        """Remember faces, in one transaction."""
        self._write("INSERT OR REPLACE INTO faces VALUES (?, ?, ?, ?, ?, ?, ?)", list(rows))

    def content_hash(self, path: Path | str) -> str:
        """Return the BLAKE2b hash (32 hexadecimal digits) of a file's bytes, read once per content.

        Raises:
            OSError: The file cannot be read.
        """
        name = absolute(path)
        before = os.stat(name)  # noqa: PTH116
        query = "SELECT content_hash FROM contents WHERE path = ? AND size = ? AND mtime_ns = ?"
        stamp = (name, before.st_size, before.st_mtime_ns)
        known = self._attempt(lambda: self._connection.execute(query, stamp).fetchone(), None)
        if known:
            return str(known[0])
        digest = hashlib.blake2b(digest_size=16)
        with open(name, "rb") as file:  # noqa: PTH123
            while block := file.read(1 << 20):
                digest.update(block)
        after = os.stat(name)  # noqa: PTH116
        if (after.st_size, after.st_mtime_ns) == stamp[1:]:  # not changed while it was read
            self._write("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)", [(*stamp, digest.hexdigest())])
        return digest.hexdigest()

    def hashes_below(self, folder: str) -> dict[tuple[str, int, int], str]:
        """Return the known hashes of files below `folder`, by (absolute path, bytes, time of the last change in ns)."""
        query = "SELECT * FROM contents WHERE path >= ? AND path < ?"
        return self._attempt(
            lambda: {row[:3]: row[3] for row in self._connection.execute(query, _below(folder))},
            {},
        )

    def token_counts(self, tokenizer: str) -> dict[bytes, int]:
        """Return the known numbers of tokens, by hash of the text, of the tokenizer with this fingerprint."""
        query = "SELECT text_hash, tokens FROM tokens WHERE tokenizer = ?"
        return self._attempt(lambda: dict(self._connection.execute(query, (tokenizer,)).fetchall()), {})

    def store_token_counts(self, tokenizer: str, counts: Mapping[bytes, int]) -> None:
        """Remember numbers of tokens, in one transaction."""
        self._write("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", [(tokenizer, *row) for row in counts.items()])

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        def write() -> None:
            with self._connection:
                self._connection.executemany(statement, rows)

        if rows:
            self._attempt(write, None)

    def _attempt(self, action: Callable[[], T], otherwise: T) -> T:
        """Do something with the file. If that fails the memo is repaired or passed over."""
        with self._lock:
            try:
                return action()
            except sqlite3.OperationalError as error:  # locked by another process, disk full, read-only
                logger.warning("the file index %s is passed over: %s", self.path, error)
            except sqlite3.DatabaseError as error:
                self._connection.close()
                self._connection = self._begin_anew(error)
            return otherwise

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return _connect(str(self.path))
        except (sqlite3.OperationalError, OSError) as error:
            return self._in_memory(error)
        except sqlite3.DatabaseError as error:
            return self._begin_anew(error)

    def _begin_anew(self, fault: sqlite3.DatabaseError) -> sqlite3.Connection:
        aside = self.path.with_suffix(".damaged")
        logger.warning("the file index %s is damaged (%s); moved to %s and begun anew", self.path, fault, aside.name)
        try:
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                self.path.replace(aside)
            self.path.with_name(self.path.name + "-journal").unlink(missing_ok=True)  # or it would be replayed
            return _connect(str(self.path))
        except (sqlite3.Error, OSError) as error:
            return self._in_memory(error)

    def _in_memory(self, error: Exception) -> sqlite3.Connection:
        logger.warning("the file index %s cannot be used and is kept in memory: %s", self.path, error)
        return _connect(":memory:")


def _below(folder: str) -> tuple[str, str]:
    """Return the range of paths below `folder`: the first one and the first that is beyond."""
    prefix = folder.rstrip(os.sep) + os.sep
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_LOCK_PATIENCE_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # a crash of the machine may damage a memo; it is then rebuilt
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _SCHEMA_VERSION:
            connection.executescript(
                f"BEGIN IMMEDIATE; DROP TABLE IF EXISTS headers; DROP TABLE IF EXISTS contents; "
                f"DROP TABLE IF EXISTS tokens; DROP TABLE IF EXISTS faces; {_SCHEMA}"
                f"PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        connection.execute("SELECT 1 FROM headers LIMIT 1").fetchone()
        connection.execute("SELECT 1 FROM contents LIMIT 1").fetchone()
        connection.execute("SELECT 1 FROM tokens LIMIT 1").fetchone()
        connection.execute("SELECT 1 FROM faces LIMIT 1").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection
