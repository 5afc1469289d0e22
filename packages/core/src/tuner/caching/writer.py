"""Gathering entries into shards, written by a thread of its own so that the encoder need not wait for the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from tuner.caching.shards import PendingEntry

_LARGEST_SHARD = 256 * 2**20  # bytes; bounds the memory of entries that wait, and the time to write them


class ShardWriter:
    """Buffers entries and hands them over as shards, one shard being written while the next fills."""

    def __init__(self, write: Callable[[Mapping[str, PendingEntry]], object], write_batch_size: int) -> None:
        self._write = write
        self._write_batch_size = write_batch_size
        self._entries: dict[str, PendingEntry] = {}
        self._bytes = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cache-writer")
        self._writing: Future[object] | None = None

    def add(self, key: str, tensors: Mapping[str, Tensor], note: Any = None) -> None:
        """Add an entry. It is on the disk after the next flush.

        Args:
            key: Hexadecimal key.
            tensors: Tensors by name, on any device; copied.
            note: What the entry is, for people; anything that JSON holds.

        Raises:
            CacheError: The shard before this one could not be written.
        """
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        entry = PendingEntry(copies, note)
        self._entries[key] = entry
        self._bytes += entry.nbytes
        if self._writing is not None and self._writing.done():
            self._finish_writing()
        if len(self._entries) >= self._write_batch_size or self._bytes >= _LARGEST_SHARD:
            self._start_writing()

    def flush(self) -> None:
        """Write what was added and wait until it is on the disk.

        Raises:
            CacheError: A shard could not be written.
        """
        self._start_writing()
        self._finish_writing()

    def close(self) -> None:
        """Flush, then end the thread, whether or not the flush succeeds."""
        try:
            self.flush()
        finally:
            self._pool.shutdown()

    def _start_writing(self) -> None:
        self._finish_writing()
        if self._entries:
            self._writing = self._pool.submit(self._write, self._entries)
            self._entries, self._bytes = {}, 0

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
