"""A content-addressed store of named tensors: a folder of shards whose own headers are the index.

There is no second file that could disagree with the shards. `verified.json` only remembers which shards were
found whole, by size and modification time, and which of their entries no longer count; losing it costs a check.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tuner.caching.files import load_memo, remove_leftovers, save_memo
from tuner.caching.shards import EntryPlace, PendingEntry, UnreadableShard, read_entries, write_shard
from tuner.caching.writer import ShardWriter
from tuner.errors import CacheError

_log = logging.getLogger(__name__)
_MEMO = "verified.json"


class DamagedEntry(CacheError):  # noqa: N818 - the name says what it is
    """An entry whose bytes no longer match its checksum.

    Attributes:
        shard: The file.
        key: The entry.
    """

    def __init__(self, place: EntryPlace) -> None:
        self.shard, self.key = place.shard, place.key
        super().__init__(
            f"{place.describe()} does not match its checksum\n"
            "    -> start again and it is rebuilt; if this happens more than once, check the disk"
        )


class ShardStore:
    """A folder of shards, safe to read and write from several threads and processes at once.

    Opening trusts a shard whose size and modification time are those it had when it was last found whole, and
    reads every other one in full. Reading an entry always checks it. A truncated or senseless shard is set
    aside as *.damaged, with a warning; its entries are then missing.

    Attributes:
        folder: Where it lies; made by whoever writes first.
        faults: What was found damaged since it was opened, for people.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`.

        Raises:
            CacheError: A shard cannot be read.
        """
        self.folder = folder
        self.faults: list[str] = []
        self._lock = threading.RLock()
        self._index: dict[str, EntryPlace] = {}
        self._verified: dict[str, list[Any]] = {}  # shard -> [bytes, mtime in ns, keys that no longer count]
        self.refresh()

    def refresh(self) -> None:
        """Take in the shards that other processes have written since.

        Raises:
            CacheError: A shard cannot be read.
        """
        memo = load_memo(self.folder / _MEMO)
        with self._lock:
            before = dict(self._verified)
            for path in sorted(self.folder.glob("shard-*.safetensors")):
                if path.name not in self._verified:
                    self._open_shard(path, memo.get(path.name))
            if any(memo.get(name) != record for name, record in self._verified.items() if name not in before):
                self._save_memo()

    def keys(self) -> set[str]:
        """Return the keys of all entries."""
        with self._lock:
            return set(self._index)

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def note(self, key: str) -> Any:
        """Return the note that was stored with an entry.

        Raises:
            CacheError: There is no such entry.
        """
        return self._place(key).note

    def describe(self, key: str) -> str:
        """Return an entry's shard, key and note, for people.

        Raises:
            CacheError: There is no such entry.
        """
        return self._place(key).describe()

    def read(self, key: str) -> dict[str, Tensor]:
        """Read an entry's tensors, in memory of their own, and check them.

        Raises:
            DamagedEntry: The bytes do not match the checksum. The entry is discarded: it counts as missing.
            CacheError: There is no such entry, or its file cannot be read.
        """
        place = self._place(key)
        try:
            tensors, intact = place.read()
        except FileNotFoundError:  # another process has tidied up; what it kept is in another shard now
            self._forget(place.shard)
            self.refresh()
            return self.read(key)
        except OSError as error:
            raise CacheError(f"{place.shard}: entry {key} cannot be read ({error.strerror})") from error
        if not intact:
            self.discard([key])
            raise DamagedEntry(place)
        return tensors

    @contextmanager
    def writer(self, write_batch_size: int) -> Iterator[ShardWriter]:
        """Open a writer that makes a shard of every `write_batch_size` entries, and of the rest on leaving.

        A process that is killed loses the entries that wait and the shard that is being written, no more. If the
        block raises, what was added is still written.

        Raises:
            CacheError: The folder cannot be made, or a shard cannot be written, for example because the disk is
                full. Shards that were written before stay.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"{self.folder}: the cache folder cannot be made ({error.strerror})") from error
        remove_leftovers(self.folder)
        writer = ShardWriter(self._write, write_batch_size)
        try:
            yield writer
        finally:
            writer.close()
            with self._lock:
                self._save_memo()

    def places(self) -> list[EntryPlace]:
        """Return where every entry lies."""
        with self._lock:
            return list(self._index.values())

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Read every entry and return the keys of those that are damaged, sorted. They stay until discarded.

        Args:
            progress: Called with (entries read, all entries) after each.
        """
        places, damaged = self.places(), []
        for number, place in enumerate(places, start=1):
            if not _is_intact(place):
                damaged.append(place.key)
            if progress is not None:
                progress(number, len(places))
        return sorted(damaged)

    def discard(self, keys: Iterable[str]) -> None:
        """Let entries count as missing, from now on and at later openings, so that they are rebuilt."""
        with self._lock:
            for place in [self._index.pop(key) for key in keys if key in self._index]:
                self._verified[place.shard.name][2].append(place.key)
            self._save_memo()

    def rewrite(self, shards: Mapping[Path, Collection[str]]) -> None:
        """Let each shard hold nothing but the entries that are named for it.

        What stays is written to a new shard before the old one is deleted: whoever is killed leaves it twice at worst.

        Raises:
            CacheError: A shard cannot be read, written or deleted; nothing that stays is lost.
        """
        try:
            # Those that vanish come first: it makes room, and a shard of what stays may get the name of one of them.
            for shard in sorted(shards, key=lambda path: len(shards[path])):
                staying = {}
                for place in [self._place(key) for key in shards[shard]]:
                    tensors, intact = place.read()
                    if intact:
                        staying[place.key] = PendingEntry(tensors, place.note)
                if not staying or self._write(staying) != shard:
                    self._forget(shard)
                    shard.unlink(missing_ok=True)
        except OSError as error:
            raise CacheError(f"{self.folder}: the cache cannot be tidied up ({error})") from error
        finally:
            with self._lock:
                self._save_memo()

    def _forget(self, shard: Path) -> None:
        with self._lock:
            self._verified.pop(shard.name, None)
            self._index = {key: place for key, place in self._index.items() if place.shard != shard}

    def _place(self, key: str) -> EntryPlace:
        place = self._index.get(key)
        if place is None:
            raise CacheError(f"{self.folder}: the cache holds no entry {key}\n    -> fill the cache first")
        return place

    def _open_shard(self, path: Path, record: Any) -> None:
        try:
            entries = read_entries(path)
            stat = path.stat()
        except FileNotFoundError:
            return  # set aside by another process meanwhile
        except UnreadableShard as error:
            self.faults.append(_set_aside(path, str(error)))
            return
        except OSError as error:
            raise CacheError(f"{path}: the cache cannot be read ({error.strerror})") from error
        state = [stat.st_size, stat.st_mtime_ns]
        if isinstance(record, list) and len(record) == 3 and record[:2] == state:
            dropped = set(record[2])
        else:
            dropped = {key for key, place in entries.items() if not _is_intact(place)}
            for key in sorted(dropped):
                self.faults.append(f"{entries[key].describe()} is damaged and will be rebuilt")
                _log.warning("%s", self.faults[-1])
        self._verified[path.name] = [*state, sorted(dropped)]
        self._index.update((key, place) for key, place in entries.items() if key not in dropped)

    def _write(self, entries: Mapping[str, PendingEntry]) -> Path:
        """Write one shard, take it into the index and return it."""
        try:
            path = write_shard(self.folder, entries)
            stat = path.stat()
            places = read_entries(path)
        except (OSError, UnreadableShard) as error:
            raise CacheError(
                f"{self.folder}: {len(entries)} cache entries cannot be written ({error})\n"
                "    -> make room or check the folder's permissions; a new start continues after what is written"
            ) from error
        with self._lock:
            self._verified[path.name] = [stat.st_size, stat.st_mtime_ns, []]
            self._index.update(places)
        return path

    def _save_memo(self) -> None:
        """Merge what this process knows into the memo. Two processes may overtake each other: it costs a check."""
        path = self.folder / _MEMO
        present = {shard.name for shard in self.folder.glob("shard-*.safetensors")}
        merged = {**load_memo(path), **self._verified}
        save_memo(path, {name: record for name, record in merged.items() if name in present})


def _is_intact(place: EntryPlace) -> bool:
    try:
        return place.read()[1]
    except OSError:
        return False


def _set_aside(path: Path, reason: str) -> str:
    """Rename a shard that makes no sense, and return what is to be said of it."""
    damaged = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(damaged)
        fault = f"{path} is damaged: {reason}; it is set aside as {damaged.name} and its entries will be rebuilt"
    except OSError as error:
        fault = f"{path} is damaged: {reason}; it is ignored (and cannot be renamed: {error})"
    _log.warning("%s", fault)
    return fault
