"""Sizes of pictures: from the file index where it knows them, else from the files' headers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tuner.data import images
from tuner.data.index import FileIndex, HeaderRow
from tuner.data.scan import Found, absolute

_THREADS = 8
_BATCH = 4096  # headers remembered together; what an interrupted scan may lose


def read_headers(folder: Path, found: Sequence[Found], index: FileIndex) -> Iterator[HeaderRow]:
    """Yield the header of every picture found below `folder`, in the order given.

    Files that are new or were changed are opened; what they say is remembered in `index`.
    """
    known = index.headers_below(absolute(folder))
    unknown = [item for item in found if not _is_current(known.get(item.path), item)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(unknown), _BATCH):
            read = list(pool.map(_read, unknown[start : start + _BATCH]))
            index.store_headers(row for row, lasting in read if lasting)
            known.update((row.path, row) for row, _ in read)
    return (known[item.path] for item in found)


def _is_current(row: HeaderRow | None, item: Found) -> bool:
    return row is not None and row.mtime_ns == item.mtime_ns and row.size == item.size


def _read(item: Found) -> tuple[HeaderRow, bool]:
    try:
        width, height = images.read_size(item.path)
    except images.UnreadableImage as error:
        return HeaderRow(item.path, item.size, item.mtime_ns, 0, 0, error.reason), error.lasting
    return HeaderRow(item.path, item.size, item.mtime_ns, width, height, None), True
