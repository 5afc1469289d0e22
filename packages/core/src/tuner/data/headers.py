"""Sizes of pictures: from the file index where it knows them, else from the files' headers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tuner.data import images
from tuner.data.index import FileIndex, HeaderRow
from tuner.data.scan import Found, absolute

_THREADS = 8
_GROUP = 64  # headers read by a thread at a time: handing over single ones costs as much as reading them
_BATCH = 4096  # headers remembered together; what an interrupted scan may lose


def read_headers(folder: Path, found: Sequence[Found], index: FileIndex) -> list[HeaderRow]:
    """Return the header of every picture found below `folder`, in the order given.

    Files that are new or were changed are opened; what they say is remembered in `index`. Those that are gone are
    forgotten.
    """
    known = index.headers_below(absolute(folder))
    rows = [known.get(item.path) for item in found]
    if len(known) > len(rows) - rows.count(None):
        index.forget_headers(known.keys() - {item.path for item in found})
    unknown = [
        number
        for number, (row, item) in enumerate(zip(rows, found, strict=True))
        if row is None or row.mtime_ns != item.mtime_ns or row.size != item.size
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(unknown), _BATCH):
            numbers = unknown[start : start + _BATCH]
            items = [found[number] for number in numbers]
            groups = [items[first : first + _GROUP] for first in range(0, len(items), _GROUP)]
            read = [row for rows_read in pool.map(_read_all, groups) for row in rows_read]
            index.store_headers(row for row, lasting in read if lasting)
            for number, (row, _) in zip(numbers, read, strict=True):
                rows[number] = row
    return [row for row in rows if row is not None]


def _read_all(items: Sequence[Found]) -> list[tuple[HeaderRow, bool]]:
    return [_read(item) for item in items]


def _read(item: Found) -> tuple[HeaderRow, bool]:
    try:
        width, height = images.read_size(item.path)
    except images.UnreadableImage as error:
        return HeaderRow(item.path, item.size, item.mtime_ns, 0, 0, error.reason), error.lasting
    return HeaderRow(item.path, item.size, item.mtime_ns, width, height, None), True
