"""Rows of the caches that stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from tuner.types import Conditioning

ROWS_REMEMBERED = 32 * 2**20
"""Bytes of rows that stay in memory: enough for a small data set, and little beside any model."""


class RowMemo:
    """The rows that were read last, up to a number of bytes. For one thread at a time.

    Reading a row checks it, which takes longer than all else that a step of a small model does beside its mathematics.
    A small data set is read once per run instead.
    """

    def __init__(self, limit: int = ROWS_REMEMBERED) -> None:
        self._limit = limit
        self._rows: dict[Hashable, Conditioning] = {}  # least recently used first
        self._held = 0

    def get(self, key: Hashable, read: Callable[[], Conditioning]) -> Conditioning:
        """Return the row of `key`; `read` gives it where it is not at hand. Nobody may change its tensors."""
        row = self._rows.pop(key, None)
        if row is None:
            row = read()
            self._held += _size(row)
        self._rows[key] = row
        while self._held > self._limit:
            self._held -= _size(self._rows.pop(next(iter(self._rows))))
        return row


def _size(row: Conditioning) -> int:
    return sum(tensor.nbytes for tensor in row.values())
