"""What a cache folder holds that is not needed, and freeing it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from tuner.caching.files import find_leftovers
from tuner.caching.shards import UnreadableShard, read_entries
from tuner.caching.store import ShardStore
from tuner.errors import CacheError


@dataclass(frozen=True)
class Amount:
    """Entries or files, and their bytes."""

    count: int = 0
    nbytes: int = 0

    @classmethod
    def of_files(cls, paths: Collection[Path]) -> Amount:
        """Return how many files there are and what they take."""
        return cls(len(paths), sum(path.stat().st_size for path in paths))


@dataclass(frozen=True)
class Contents:
    """What lies in a cache folder.

    Attributes:
        entries: Entries that count.
        needed: Keys that are needed.
        present: How many of them are there.
        unneeded: Entries that count and are not needed.
        void: Entries that no longer count: damaged, replaced, or there a second time.
        shards: The shards.
        damaged: Shards that were set aside.
        leftovers: Temporary files of processes that no longer live.
        partly: Shard that holds more than what is needed -> the keys that are.
    """

    entries: Amount
    needed: int
    present: int
    unneeded: Amount
    void: Amount
    shards: tuple[Path, ...]
    damaged: tuple[Path, ...]
    leftovers: tuple[Path, ...]
    partly: Mapping[Path, tuple[str, ...]]


def survey(store: ShardStore, needed: Set[str]) -> Contents:
    """Look at a cache folder; reads headers only.

    Args:
        store: The cache.
        needed: Keys of the entries that are needed.

    Raises:
        CacheError: A shard cannot be read.
    """
    places = {place.key: place for place in store.places()}
    unneeded, void = [], []
    partly: dict[Path, tuple[str, ...]] = {}
    shards = tuple(sorted(store.folder.glob("shard-*.safetensors")))
    for shard in shards:
        try:
            held = read_entries(shard)
        except (OSError, UnreadableShard) as error:
            raise CacheError(f"{shard}: changed while it was looked at ({error})\n    -> try again") from error
        counting = {key: place for key, place in held.items() if places.get(key) == place}
        void += [place.nbytes for key, place in held.items() if key not in counting]
        unneeded += [place.nbytes for key, place in counting.items() if key not in needed]
        if len(staying := tuple(key for key in counting if key in needed)) < len(held):
            partly[shard] = staying
    return Contents(
        entries=Amount(len(places), sum(place.nbytes for place in places.values())),
        needed=len(needed),
        present=len(needed & places.keys()),
        unneeded=Amount(len(unneeded), sum(unneeded)),
        void=Amount(len(void), sum(void)),
        shards=shards,
        damaged=tuple(sorted(store.folder.glob("shard-*.safetensors.damaged"))),
        leftovers=tuple(find_leftovers(store.folder)),
        partly=partly,
    )


def free(store: ShardStore, contents: Contents) -> None:
    """Delete all that is not needed. A process that is killed meanwhile loses nothing that is.

    Raises:
        CacheError: Something cannot be written or deleted.
    """
    try:
        for path in (*contents.damaged, *contents.leftovers):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{error.filename}: cannot be deleted ({error.strerror})") from error
    store.rewrite(contents.partly)
