"""Writing that is cut short, by a kill or a full disk. Run as a program, this file writes shards (see `main`)."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from tuner.caching.files import find_leftovers
from tuner.caching.store import ShardStore
from tuner.errors import CacheError

PER_SHARD = 4
LARGE, SMALL = 2**21, 2**14
"""Values in an entry."""


def key(number: int) -> str:
    return f"{number:032x}"


def entry(number: int, size: int) -> dict[str, Tensor]:
    return {"latent": torch.arange(size, dtype=torch.float32) + number}


def assert_whole(folder: Path, numbers: list[int], size: int) -> None:
    store = ShardStore(folder)
    assert store.faults == []
    assert store.keys() == {key(number) for number in numbers}
    for number in numbers:
        assert torch.equal(store.read(key(number))["latent"], entry(number, size)["latent"])


def test_killed_in_the_middle_of_a_shard_only_that_shard_is_lost(tmp_path: Path) -> None:
    for attempt in count():
        folder = tmp_path / str(attempt)
        if kill_while_writing(folder):
            break
    shards = len(list(folder.glob("shard-*")))
    assert shards >= 2
    (leftover,) = find_leftovers(folder)
    assert leftover.stat().st_size > 0
    assert_whole(folder, list(range(shards * PER_SHARD)), LARGE)
    assert leftover.exists()
    with ShardStore(folder).writer(PER_SHARD):
        assert not leftover.exists()


def kill_while_writing(folder: Path) -> bool:
    """Kill a writer while it writes its third shard or a later one; false where it was done with that one by then."""
    writer = subprocess.Popen([sys.executable, __file__, "endlessly", str(folder)])
    while len(list(folder.glob("shard-*"))) < 2 or not any(map(size_of, folder.glob(".tmp-*"))):
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    return bool(find_leftovers(folder))


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_disk_that_is_full_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: it stops the same call with an error of its own."""
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, __file__, "limited", str(cache)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{cache}: {PER_SHARD} cache entries cannot be written (" in done.stderr
    assert "File too large" in done.stderr
    assert "\n    -> make room" in done.stderr
    assert not list(cache.glob(".tmp-*"))
    assert_whole(cache, list(range(2 * PER_SHARD)), SMALL)
    with ShardStore(cache).writer(PER_SHARD) as writer:
        for number in range(8, 12):
            writer.add(key(number), entry(number, SMALL))
    assert_whole(cache, list(range(12)), SMALL)


def endlessly(folder: Path) -> None:
    """Write shards until killed."""
    with ShardStore(folder).writer(PER_SHARD) as writer:
        for number in count():
            writer.add(key(number), entry(number, LARGE))


def limited(folder: Path) -> None:
    """Write two shards below the limit, and one above it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))
    try:
        with ShardStore(folder).writer(PER_SHARD) as writer:
            for number in range(3 * PER_SHARD):
                writer.add(key(number), entry(number, SMALL if number < 2 * PER_SHARD else LARGE))
    except CacheError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    {"endlessly": endlessly, "limited": limited}[sys.argv[1]](Path(sys.argv[2]))
