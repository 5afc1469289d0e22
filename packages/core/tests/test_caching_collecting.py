"""Freeing what is not needed. Run as a program, this file frees and is killed at a given moment (see `main`)."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tuner.caching.collecting import Amount, free, survey
from tuner.caching.store import ShardStore
from tuner.errors import CacheError

NBYTES = 256
NEEDED = {f"{number:032x}" for number in (1, 2, 9)}


def key(number: int) -> str:
    return f"{number:032x}"


def entry(number: int) -> dict[str, Tensor]:
    return {"latent": torch.full((64,), float(number))}


def write(folder: Path, *numbers: int) -> Path:
    """Write one shard with these entries."""
    before = set(folder.glob("shard-*"))
    with ShardStore(folder).writer(100) as writer:
        for number in numbers:
            writer.add(key(number), entry(number), note=f"sample {number}")
    (shard,) = set(folder.glob("shard-*")) - before
    return shard


def numbers_in(folder: Path) -> list[int]:
    store = ShardStore(folder)
    assert store.verify() == []
    numbers = sorted(int(name, 16) for name in store.keys())  # noqa: SIM118 - the store is no mapping
    for number in numbers:
        assert torch.equal(store.read(key(number))["latent"], entry(number)["latent"])
        assert store.note(key(number)) == f"sample {number}"
    return numbers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards: needed in part, not at all, and as a whole."""
    write(tmp_path, 0, 1, 2, 3)
    write(tmp_path, 4, 5)
    write(tmp_path, 9)
    return tmp_path


def test_what_is_there_and_what_is_needed(folder: Path) -> None:
    contents = survey(ShardStore(folder), NEEDED | {key(77)})
    assert contents.entries == Amount(7, 7 * NBYTES)
    assert (contents.needed, contents.present) == (4, 3)
    assert contents.unneeded == Amount(4, 4 * NBYTES)
    assert contents.void == Amount(0, 0)
    assert len(contents.shards) == 3
    assert sorted(map(sorted, contents.partly.values())) == [[], [key(1), key(2)]]


def test_looking_changes_nothing(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    survey(ShardStore(folder), set())
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    contents = survey(ShardStore(tmp_path / "cache"), NEEDED)
    assert (contents.entries, contents.needed, contents.present) == (Amount(), 3, 0)
    free(ShardStore(tmp_path / "cache"), contents)
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_needed_stays(folder: Path) -> None:
    store = ShardStore(folder)
    free(store, survey(store, NEEDED))
    assert store.keys() == NEEDED
    assert numbers_in(folder) == [1, 2, 9]
    assert len(list(folder.glob("shard-*"))) == 2
    again = survey(store, NEEDED)
    assert (again.entries, dict(again.partly)) == (Amount(3, 3 * NBYTES), {})
    assert len(ShardStore(folder).faults) == 0


def test_entries_that_no_longer_count_are_freed(folder: Path) -> None:
    store = ShardStore(folder)
    store.discard([key(2)])
    write(folder, 2)
    store = ShardStore(folder)
    contents = survey(store, NEEDED)
    assert contents.void == Amount(1, NBYTES)
    assert contents.unneeded == Amount(4, 4 * NBYTES)
    free(store, contents)
    assert numbers_in(folder) == [1, 2, 9]
    assert survey(ShardStore(folder), NEEDED).void == Amount(0, 0)


def test_an_entry_that_is_there_twice_stays_once(tmp_path: Path) -> None:
    """Also where the shard of what stays gets the name of one that goes, as that of 6 alone does here."""
    alone, _, counting = write(tmp_path, 6), write(tmp_path, 6, 106), write(tmp_path, 6, 206)
    store = ShardStore(tmp_path)
    assert store.describe(key(6)).startswith(str(counting))
    contents = survey(store, {key(6)})
    assert contents.entries.count == 3
    assert contents.void == Amount(2, 2 * NBYTES)
    assert contents.unneeded == Amount(2, 2 * NBYTES)
    free(store, contents)
    assert numbers_in(tmp_path) == [6]
    assert list(tmp_path.glob("shard-*")) == [alone]


def test_damaged_shards_and_unfinished_files_are_freed(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (folder / "shard-x.safetensors.damaged").write_bytes(b"12345")
    (folder / f".tmp-{platform.node()}-{child.pid}-{'0' * 32}").write_bytes(b"123")
    live = folder / f".tmp-{platform.node()}-{os.getpid()}-{'0' * 32}"
    live.write_bytes(b"being written")
    store = ShardStore(folder)
    contents = survey(store, NEEDED)
    assert Amount.of_files(contents.damaged) == Amount(1, 5)
    assert Amount.of_files(contents.leftovers) == Amount(1, 3)
    free(store, contents)
    left = survey(store, NEEDED)
    assert left.damaged == left.leftovers == ()
    assert live.exists()


def test_damage_that_shows_while_freeing_is_not_kept(folder: Path) -> None:
    store = ShardStore(folder)
    (shard,) = {place.shard for place in store.places() if place.key == key(1)}
    content, stat = bytearray(shard.read_bytes()), shard.stat()
    content[content.index(entry(1)["latent"].numpy().tobytes()) + 7] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    free(store, survey(store, NEEDED))
    assert numbers_in(folder) == [2, 9]


def test_a_process_that_reads_meanwhile_finds_what_stays(folder: Path) -> None:
    reader, store = ShardStore(folder), ShardStore(folder)
    free(store, survey(store, NEEDED))
    for number in (1, 2, 9):
        assert torch.equal(reader.read(key(number))["latent"], entry(number)["latent"])
    with pytest.raises(CacheError, match="holds no entry"):
        reader.read(key(4))


def test_killed_at_any_moment_nothing_that_stays_is_lost(folder: Path) -> None:
    subprocess.run([sys.executable, __file__, str(folder)], check=True)
    killed = sorted(folder.glob("killed-*"))
    assert len(killed) > 10
    states = set()
    for copy in killed:
        numbers = numbers_in(copy)
        assert set(numbers) >= {1, 2, 9}
        states.add(tuple(numbers))
        store = ShardStore(copy)
        free(store, survey(store, NEEDED))
        assert numbers_in(copy) == [1, 2, 9]
    assert states == {(0, 1, 2, 3, 4, 5, 9), (0, 1, 2, 3, 9), (1, 2, 9)}


def main(folder: Path) -> None:
    """Free copies of a folder in processes that die at the first, second, ... file that they open, rename or delete."""
    files = sorted(folder.iterdir())
    for moment in count(1):
        copy = folder / f"killed-{moment}"
        copy.mkdir()
        for file in files:
            shutil.copy2(file, copy)
        child = os.fork()
        if not child:
            free_until(copy, moment)
        if os.waitpid(child, 0)[1] == 0:
            return


def free_until(folder: Path, moment: int) -> None:
    """Free a folder and die at the given event."""
    events = count(1)

    def watch(event: str, _: object) -> None:
        if event in ("open", "os.rename", "os.remove", "os.chmod") and next(events) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    store = ShardStore(folder)
    contents = survey(store, NEEDED)
    sys.addaudithook(watch)
    free(store, contents)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
