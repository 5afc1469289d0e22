"""Pictures at the addresses that a CSV file lists."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tuner.config.datasets import DatasetConfig
from tuner.data.images import UnreadableImage
from tuner.data.plan import Unused
from tuner.data.sources.mirror import Mirror, NameTaken
from tuner.data.sources.names import safe_path
from tuner.data.sources.parallel import THREADS, Progress, in_parallel
from tuner.data.sources.pictures import has_picture_suffix, picture_suffix
from tuner.data.sources.web import NotFetched, WebClient
from tuner.errors import DatasetError

logger = logging.getLogger(__name__)

_WEB = ("http", "https")


class Row(NamedTuple):
    """A row of the file.

    Attributes:
        line: Its line, from 1.
        address: Of the picture: a URL or a path.
        caption: Its caption, which may be empty.
    """

    line: int
    address: str
    caption: str


def fetch(dataset: DatasetConfig, mirror: Mirror, progress: Progress) -> list[Unused]:
    """Copy the pictures that are new in the file, and remove from the mirror those that it no longer lists.

    What was fetched once is not asked for again. Pictures from the file's own computer are linked, not copied.

    Raises:
        DatasetError: The file cannot be read, or none of its pictures can be had.
        OSError: The mirror cannot be written to.
    """
    rows = _distinct(dataset, read_rows(dataset))
    source = _Source(dataset, mirror)
    missing = [row for row in rows if not mirror.holds(_identity(row), "")]
    in_parallel(source.copy, missing, progress)
    held = [row for row in rows if mirror.holds(_identity(row), "")]
    if not held:
        first = source.unused[min(source.unused)]
        raise DatasetError(
            f"data set {dataset.id!r}: none of the {len(rows)} pictures of {dataset.csv_file} can be had; "
            f"the first, {first.key}: {first.reason}\n    -> {first.remedy}"
        )
    mirror.prune({_identity(row) for row in rows})
    mirror.write_captions((mirror.path_of(_identity(row)), [row.caption]) for row in held)
    return [source.unused[line] for line in sorted(source.unused)]


def read_rows(dataset: DatasetConfig) -> list[Row]:
    """Read the file.

    Raises:
        DatasetError: It is missing, no CSV in UTF-8, lacks a column, or holds no row.
    """
    path = dataset.csv_file
    assert path is not None  # checked with the configuration
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(csv.DictReader(file), dataset))
    except OSError as error:
        raise _unreadable(dataset, f"cannot be read: {error.strerror}", "check csv_file") from error
    except UnicodeDecodeError as error:
        raise _unreadable(dataset, "is not UTF-8 text", "save it as UTF-8") from error
    except csv.Error as error:
        raise _unreadable(dataset, f"is no CSV file: {error}", "correct it") from error
    if not rows:
        raise _unreadable(dataset, "holds no rows", "add pictures")
    return rows


def _rows(reader: csv.DictReader[str], dataset: DatasetConfig) -> Iterator[Row]:
    columns = reader.fieldnames or []
    wanted = {"csv_url_column": dataset.csv_url_column}
    if dataset.caption_strategy == "csv":
        wanted["csv_caption_column"] = dataset.csv_caption_column
    for key, column in wanted.items():
        if column not in columns:
            raise _unreadable(dataset, f"has no column {column!r}; it has: {', '.join(columns)}", f"set {key}")
    for row in reader:
        address = (row[dataset.csv_url_column] or "").strip()
        yield Row(reader.line_num, address, (row.get(dataset.csv_caption_column) or "").strip())


def _unreadable(dataset: DatasetConfig, text: str, remedy: str) -> DatasetError:
    return DatasetError(f"data set {dataset.id!r}: csv_file: {dataset.csv_file} {text}\n    -> {remedy}")


def _distinct(dataset: DatasetConfig, rows: list[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.address or f"line {row.line}", row)
    if repeated := len(rows) - len(first):
        text = "%s: %d rows of %s repeat the address of an earlier one, which counts"
        logger.warning(text, dataset.id, repeated, dataset.csv_file)
    return list(first.values())


def _identity(row: Row) -> str:
    """Return what the record calls a picture. Addresses themselves may hold keys, and are written nowhere."""
    return hashlib.blake2b(row.address.encode(), digest_size=16).hexdigest()


class _Source:
    """The pictures of a file.

    Attributes:
        unused: Those that could not be had, by line.
    """

    def __init__(self, dataset: DatasetConfig, mirror: Mirror) -> None:
        assert dataset.csv_file is not None  # checked with the configuration
        self.unused: dict[int, Unused] = {}
        self._dataset, self._mirror = dataset, mirror
        self._folder = dataset.csv_file.absolute().parent
        self._web = WebClient(THREADS)

    def copy(self, row: Row) -> None:
        """Fetch the picture of a row into the mirror, or note why that is not possible."""
        try:
            with self._mirror.incoming() as path:
                name = self._fetch(row.address, path)
                suffix = picture_suffix(path)
                name = name if has_picture_suffix(name) else name + suffix
                self._mirror.keep(path, _identity(row), name, "")
        except NotFetched as error:
            self._leave_out(row, error.reason, error.remedy)
        except UnreadableImage as error:
            self._leave_out(row, f"what is at its address {error.reason}", "correct or remove the address")
        except NameTaken as error:
            self._leave_out(row, str(error), "move that file elsewhere")

    def _fetch(self, address: str, target: Path) -> str:
        """Bring what is at an address to `target` and return the name that it goes by in the mirror."""
        if not address:
            raise NotFetched("its row has no address", f"fill in column {self._dataset.csv_url_column}")
        if "://" not in address:
            return self._link(address, target)
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise NotFetched("its address cannot be followed", "correct it") from None
        if parts.scheme.lower() not in _WEB:
            remedy = "give http:// or https:// addresses, or paths"
            raise NotFetched(f"{parts.scheme}:// addresses are not read", remedy)
        self._web.fetch(address, target)
        path = [unquote(part).replace("/", "\\") for part in parts.path.lstrip("/").split("/")]
        return safe_path("/".join([f"{host}_{port}" if port else host, *path]), parts.query)

    def _link(self, address: str, target: Path) -> str:
        source = self._folder / address
        if not os.path.isfile(source):  # noqa: PTH113 - Path.is_file raises what some names make the system say
            raise NotFetched("there is no file of its path", f"correct it; paths are relative to {self._folder}")
        target.symlink_to(source)
        return safe_path(address)

    def _leave_out(self, row: Row, reason: str, remedy: str) -> None:
        self.unused[row.line] = Unused(self._dataset.id, f"{self._dataset.id}/line {row.line}", reason, remedy)
