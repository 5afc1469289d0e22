from __future__ import annotations

import errno
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tuner.caching.store import DamagedEntry, ShardStore
from tuner.errors import CacheError


def key(number: int) -> str:
    return f"{number:032x}"


def entry(number: int) -> dict[str, Tensor]:
    values = torch.arange(64, dtype=torch.float32) + number
    return {"embeds": values.to(torch.bfloat16).reshape(8, 8), "mask": torch.ones(8, dtype=torch.bool)}


def fill(folder: Path, numbers: range, write_batch_size: int = 4) -> ShardStore:
    store = ShardStore(folder)
    with store.writer(write_batch_size) as writer:
        for number in numbers:
            writer.add(key(number), entry(number), note=f"sample {number}")
    return store


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def shard_with(folder: Path, number: int) -> Path:
    return next(path for path in shards(folder) if key(number).encode() in path.read_bytes())


def flip_byte_of(folder: Path, number: int, *, keep_time: bool) -> Path:
    """Flip one bit of an entry's bfloat16 tensor, with or without a trace in the modification time."""
    shard = shard_with(folder, number)
    content, stat = bytearray(shard.read_bytes()), shard.stat()
    offset = content.index(entry(number)["embeds"].view(torch.uint8).numpy().tobytes())
    content[offset + 17] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns if keep_time else stat.st_mtime_ns + 10**9))
    return shard


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ],
)
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (24, 8), dtype=torch.uint8)
    written = {"tensor": raw.view(dtype)}
    with ShardStore(tmp_path).writer(1) as writer:
        writer.add(key(1), written)
    read = ShardStore(tmp_path).read(key(1))
    assert read["tensor"].dtype is dtype
    assert read["tensor"].shape == written["tensor"].shape
    assert torch.equal(read["tensor"].view(torch.uint8), raw)


def test_odd_shapes_names_and_memory_layouts_come_back(tmp_path: Path) -> None:
    batch = torch.arange(24.0).reshape(2, 3, 4)
    written = {
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 5, dtype=torch.bfloat16),
        "transposed": batch[1].T,
        "row of a batch": batch[0],
        "llama/hidden": torch.ones(1),
    }
    with ShardStore(tmp_path).writer(8) as writer:
        writer.add(key(1), written)
    read = ShardStore(tmp_path).read(key(1))
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert torch.equal(read[name], tensor), name
        assert read[name].dtype is tensor.dtype


def test_what_is_read_belongs_to_the_reader(tmp_path: Path) -> None:
    store = fill(tmp_path, range(1))
    store.read(key(0))["embeds"].zero_()
    assert torch.equal(store.read(key(0))["embeds"], entry(0)["embeds"])


def test_keys_notes_and_shards(tmp_path: Path) -> None:
    fill(tmp_path, range(10), write_batch_size=4)
    store = ShardStore(tmp_path)
    assert store.keys() == {key(number) for number in range(10)}
    assert len(store) == 10
    assert key(3) in store
    assert key(10) not in store
    assert store.note(key(3)) == "sample 3"
    assert len(shards(tmp_path)) == 3  # 4 + 4 + 2
    with pytest.raises(CacheError, match=f"holds no entry {key(10)}"):
        store.read(key(10))


def test_a_flush_puts_everything_on_the_disk(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    with store.writer(100) as writer:
        writer.add(key(0), entry(0))
        assert ShardStore(tmp_path).keys() == set()
        writer.flush()
        assert ShardStore(tmp_path).keys() == {key(0)}


def test_what_was_added_is_kept_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="encoder"), ShardStore(tmp_path).writer(100) as writer:
        writer.add(key(0), entry(0))
        raise RuntimeError("the encoder failed")
    assert ShardStore(tmp_path).keys() == {key(0)}


def test_equal_entries_make_one_file_with_equal_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(8))
    fill(tmp_path / "b", range(8))
    assert [path.name for path in shards(tmp_path / "a")] == [path.name for path in shards(tmp_path / "b")]
    for left, right in zip(shards(tmp_path / "a"), shards(tmp_path / "b"), strict=True):
        assert left.read_bytes() == right.read_bytes()


def test_equal_entries_with_other_notes_leave_each_others_files_alone(tmp_path: Path) -> None:
    """Two data sets that share pictures and a folder, each opened before the other wrote."""
    stores = [ShardStore(tmp_path), ShardStore(tmp_path)]
    for name, store in zip(("short", "a longer name"), stores, strict=True):
        with store.writer(4) as writer:
            writer.add(key(1), entry(1), note=name)
    for store in stores:
        assert all(value.equal(entry(1)[name]) for name, value in store.read(key(1)).items())
    assert len(shards(tmp_path)) == 2


def test_shards_may_be_read_by_whoever_may_read_new_files(tmp_path: Path) -> None:
    fill(tmp_path, range(4))
    (tmp_path / "new").touch()
    assert shards(tmp_path)[0].stat().st_mode == (tmp_path / "new").stat().st_mode


def test_refresh_takes_in_what_others_wrote(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    fill(tmp_path, range(3))
    assert len(store) == 0
    store.refresh()
    assert torch.equal(store.read(key(2))["embeds"], entry(2)["embeds"])


def test_threads_read_at_once(tmp_path: Path) -> None:
    store = fill(tmp_path, range(40))
    with ThreadPoolExecutor(8) as pool:
        for number, read in zip(range(40), pool.map(store.read, map(key, range(40))), strict=True):
            assert torch.equal(read["embeds"], entry(number)["embeds"])


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_shard_is_set_aside_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int) -> None:
    fill(tmp_path, range(8))
    shard = shard_with(tmp_path, 5)
    rest = shard.read_bytes()[:kept]
    shard.write_bytes(rest)
    with caplog.at_level(logging.WARNING):
        store = ShardStore(tmp_path)
    assert str(shard) in caplog.text
    assert store.keys() == {key(number) for number in range(4)}
    assert not shard.exists()
    assert shard.with_name(f"{shard.name}.damaged").read_bytes() == rest
    caplog.clear()
    fill(tmp_path, range(4, 8))
    assert ShardStore(tmp_path).keys() == {key(number) for number in range(8)}
    assert not caplog.text


def test_a_flipped_byte_is_found_at_opening_if_the_file_looks_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, range(8))
    shard = flip_byte_of(tmp_path, 6, keep_time=False)
    with caplog.at_level(logging.WARNING):
        store = ShardStore(tmp_path)
    assert str(shard) in caplog.text
    assert f"{key(6)} (sample 6)" in caplog.text
    assert store.keys() == {key(number) for number in range(8) if number != 6}
    assert store.verify() == []


def test_a_silently_flipped_byte_is_named_when_read_and_rebuilt_after(tmp_path: Path) -> None:
    fill(tmp_path, range(8))
    shard = flip_byte_of(tmp_path, 6, keep_time=True)
    store = ShardStore(tmp_path)
    assert store.verify() == [key(6)]
    with pytest.raises(DamagedEntry, match="sample 6") as caught:
        store.read(key(6))
    assert (caught.value.shard, caught.value.key) == (shard, key(6))
    assert key(6) not in store
    assert torch.equal(store.read(key(5))["embeds"], entry(5)["embeds"])

    reopened = ShardStore(tmp_path)
    assert key(6) not in reopened
    with reopened.writer(4) as writer:
        writer.add(key(6), entry(6), note="sample 6")
    for healed in (reopened, ShardStore(tmp_path)):
        assert torch.equal(healed.read(key(6))["embeds"], entry(6)["embeds"])
        assert healed.verify() == []


def test_a_shard_rebuilt_under_its_own_name_counts_again(tmp_path: Path) -> None:
    fill(tmp_path, range(4))
    shard = flip_byte_of(tmp_path, 2, keep_time=True)
    store = ShardStore(tmp_path)
    store.discard(store.keys())
    assert ShardStore(tmp_path).keys() == set()
    fill(tmp_path, range(4))
    assert shards(tmp_path) == [shard]
    reopened = ShardStore(tmp_path)
    assert reopened.keys() == {key(number) for number in range(4)}
    assert reopened.verify() == []


def test_every_flipped_bit_of_a_shard_is_noticed(tmp_path: Path) -> None:
    """Whatever is hit, header or data: an entry is read as it was written or does not count."""
    fill(tmp_path / "whole", range(2))
    content = shards(tmp_path / "whole")[0].read_bytes()
    for position in range(0, len(content)):
        folder = tmp_path / str(position)
        folder.mkdir()
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        (folder / "shard-0.safetensors").write_bytes(damaged)
        store = ShardStore(folder)
        for number in range(2):
            if key(number) in store:
                read = store.read(key(number))
                assert read.keys() == entry(number).keys()
                assert all(torch.equal(read[name], tensor) for name, tensor in entry(number).items())
        assert store.keys() <= {key(0), key(1)}


@pytest.mark.parametrize("memo", [None, "", "[]", '{"shard', '{"x": 3}'])
def test_the_memo_may_be_lost_or_damaged(tmp_path: Path, memo: str | None) -> None:
    fill(tmp_path, range(8))
    flip_byte_of(tmp_path, 6, keep_time=True)
    path = tmp_path / "verified.json"
    path.unlink() if memo is None else path.write_text(memo)
    assert ShardStore(tmp_path).keys() == {key(number) for number in range(8) if number != 6}
    assert sorted(json.loads(path.read_text())) == [shard.name for shard in shards(tmp_path)]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_is_an_error_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    fill(tmp_path, range(4))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = ShardStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(CacheError, match="No space left on device"), store.writer(2) as writer:
            for number in range(4, 10):
                writer.add(key(number), entry(number))
    assert not list(tmp_path.glob(".tmp-*"))
    assert store.keys() == ShardStore(tmp_path).keys() == {key(number) for number in range(4)}
    with store.writer(2) as writer:
        for number in range(4, 10):
            writer.add(key(number), entry(number))
    assert ShardStore(tmp_path).keys() == {key(number) for number in range(10)}
    assert store.verify() == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot be made"), ShardStore(tmp_path / "file" / "cache").writer(1):
        pass


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    leftover = tmp_path / f".tmp-{platform.node()}-{_dead_pid()}-{'0' * 32}"
    leftover.write_bytes(b"half a shard")
    assert ShardStore(tmp_path / "cache").keys() == ShardStore(tmp_path).keys() == set()
    assert list(tmp_path.iterdir()) == [leftover]


def _dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize(
    ("host", "pid", "age_hours", "stays"),
    [
        (platform.node, _dead_pid, 0.0, False),
        (platform.node, os.getpid, 0.0, True),
        (platform.node, os.getpid, 2.0, False),
        (lambda: "else-where-7", os.getpid, 0.0, True),
        (lambda: "else-where-7", os.getpid, 2.0, False),
    ],
)
def test_leftovers_of_the_dead_are_removed(
    tmp_path: Path, host: Callable[[], str], pid: Callable[[], int], age_hours: float, stays: bool
) -> None:
    leftover = tmp_path / f".tmp-{host()}-{pid()}-{'0' * 32}"
    leftover.write_bytes(b"half a shard")
    foreign = tmp_path / ".tmp-notes"
    foreign.write_text("somebody else's")
    written = time.time() - age_hours * 3600
    os.utime(leftover, (written, written))
    with ShardStore(tmp_path).writer(1):
        pass
    assert leftover.exists() is stays
    assert foreign.exists()
