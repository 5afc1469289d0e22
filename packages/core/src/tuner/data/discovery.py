"""Which pictures a data set has: from its folder, or from what the file index remembers of it."""

from __future__ import annotations

import logging
import os

from tuner.config.datasets import DatasetConfig
from tuner.data.headers import read_headers
from tuner.data.index import FileIndex, HeaderRow
from tuner.data.scan import Found, Listing, absolute, list_images

logger = logging.getLogger(__name__)

_SKIPPING = {"aspect", "metadata"}


def discover(dataset: DatasetConfig, index: FileIndex) -> tuple[Listing, list[HeaderRow]]:
    """Return a data set's pictures and their headers, in the same order.

    Where `skip_file_discovery` names aspect or metadata, they are those of the last search: the folder is neither
    listed nor are its files looked at, so new pictures are not seen, and those that vanished are missed by whoever
    needs them. A folder that was never searched is searched once.

    Raises:
        OSError: The folder cannot be listed.
    """
    if _SKIPPING & set(dataset.skip_file_discovery):
        rows = _remembered(absolute(dataset.folder), index)
        if rows:
            start = len(absolute(dataset.folder).rstrip(os.sep)) + 1
            found = (Found(row.path[start:].replace(os.sep, "/"), row.path, row.size, row.mtime_ns) for row in rows)
            return Listing(tuple(found), {}, {}), rows
        logger.info(
            "data set %s: nothing is known of %s yet, so skip_file_discovery waits: it is searched this once",
            dataset.id,
            dataset.folder,
        )
    listing = list_images(dataset.folder)
    return listing, read_headers(dataset.folder, listing.images, index)


def _remembered(folder: str, index: FileIndex) -> list[HeaderRow]:
    """Return what is known below `folder`, in the order of a search, which passes over what is hidden."""
    start = len(folder.rstrip(os.sep))
    rows = (row for path, row in index.headers_below(folder).items() if f"{os.sep}." not in path[start:])
    return sorted(rows, key=lambda row: row.path)
