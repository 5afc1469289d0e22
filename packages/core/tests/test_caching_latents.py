"""Filling the latent cache. Run as a program, this file fills one in a process of its own (see `run_fill`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tuner.caching.filling import FillReport
from tuner.caching.latents import LatentCache, latent_key
from tuner.caching.readers import read_in_processes, read_in_threads
from tuner.caching.store import DamagedEntry, ShardStore
from tuner.data.images import load_pixels
from tuner.data.index import FileIndex
from tuner.data.sample import Geometry, Sample
from tuner.errors import NonFiniteError

SMALL = Geometry(resize=(64, 64), crop=(0, 0, 64, 64))
WIDE = Geometry(resize=(96, 64), crop=(0, 0, 96, 64))


class ConvCodec:
    """A tiny real codec: one convolution with a stride of 8. Counts what it encodes."""

    def __init__(self, seed: int = 0) -> None:
        self.module: nn.Module = nn.Conv2d(3, 4, 8, stride=8)
        values = np.random.default_rng(seed).standard_normal((4, 3, 8, 8), dtype=np.float32)
        with torch.no_grad():
            self.module.weight.copy_(torch.from_numpy(values))
            self.module.bias.zero_()
        self.encoded = 0
        self.batches: list[tuple[int, ...]] = []

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        self.encoded += len(pixels_BCHW)
        self.batches.append(tuple(pixels_BCHW.shape))
        return self.module(pixels_BCHW)

    def decode(self, latents: Tensor) -> Tensor:
        return nn.functional.interpolate(latents[:, :3], scale_factor=8)


def make_samples(folder: Path, count: int, geometry: Callable[[int], Geometry] = lambda _: SMALL) -> list[Sample]:
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        path = folder / f"{number:03d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        samples.append(Sample(f"{folder.name}/{path.name}", folder.name, str(path), ("a caption",), geometry(number)))
    return samples


def open_cache(folder: Path) -> LatentCache:
    return LatentCache(
        ShardStore(folder),
        content_hash=FileIndex(folder / "index").content_hash,
        family_name="sana",
        vae_fingerprint="weights",
        dtype=torch.float32,
        codec_version="1",
    )


def fill(
    cache: LatentCache,
    samples: list[Sample],
    codec: ConvCodec,
    write_batch_size: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> FillReport:
    return cache.fill(
        samples,
        open_codec=lambda: codec,
        batch_size=4,
        write_batch_size=write_batch_size,
        progress=progress,
    )


def refuse_to_open() -> ConvCodec:
    raise AssertionError("the codec was opened though nothing is missing")


def test_latents_are_those_of_the_codec(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 10, lambda number: WIDE if number % 3 == 0 else SMALL)
    cache, codec = open_cache(tmp_path / "cache"), ConvCodec()
    seen: list[tuple[int, int]] = []
    report = fill(cache, samples, codec, progress=lambda done, total: seen.append((done, total)))
    assert report == FillReport(encoded=10, reused=0, unreadable={})
    assert codec.batches == [(4, 3, 64, 96), (4, 3, 64, 64), (2, 3, 64, 64)]
    assert seen == [(4, 10), (8, 10), (10, 10)]
    for sample in samples:
        with torch.no_grad():
            expected = codec.module(load_pixels(sample.path, sample.geometry)[None])[0]
        torch.testing.assert_close(cache.read(sample), expected, rtol=0, atol=1e-5)


def test_threads_and_processes_fill_the_same_cache(tmp_path: Path) -> None:
    """Down to the bytes of every shard, whose name follows from what it holds."""
    samples = make_samples(tmp_path / "photos", 22, lambda number: WIDE if number % 3 == 0 else SMALL)
    samples[4].path.unlink()
    shards, batches = [], []
    for name, open_reader in {"threads": read_in_threads, "processes": lambda: read_in_processes(2)}.items():
        codec = ConvCodec()
        report = open_cache(tmp_path / name).fill(
            samples,
            open_codec=lambda codec=codec: codec,
            batch_size=4,
            write_batch_size=4,
            open_reader=lambda _, open_reader=open_reader: open_reader(),
        )
        assert report == FillReport(21, 0, {"photos/004.png": "No such file or directory"})
        batches.append(codec.batches)
        shards.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("shard-*")})
    assert len(shards[0]) == 6
    assert shards[0] == shards[1]
    assert batches[0] == batches[1]


def test_the_codec_stays_closed_when_all_is_cached(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 5)
    fill(open_cache(tmp_path / "cache"), samples, ConvCodec())
    reopened = open_cache(tmp_path / "cache")
    report = reopened.fill(samples, open_codec=refuse_to_open, batch_size=4, write_batch_size=4)
    assert report == FillReport(encoded=0, reused=5, unreadable={})


def test_a_process_that_did_not_fill_reads_the_same(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 5)
    filler = open_cache(tmp_path / "cache")
    fill(filler, samples, ConvCodec())
    reader = open_cache(tmp_path / "cache")
    for sample in samples:
        assert torch.equal(reader.read(sample), filler.read(sample))


def test_one_file_in_two_data_sets_is_encoded_once(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 4)
    copy = tmp_path / "copy.png"
    copy.write_bytes(samples[1].path.read_bytes())
    twice = [
        *samples,
        replace(samples[0], key="other/000.png", dataset="other"),
        Sample("copies/copy.png", "copies", str(copy), ("b",), SMALL),
    ]
    cache, codec = open_cache(tmp_path / "cache"), ConvCodec()
    assert fill(cache, twice, codec) == FillReport(encoded=4, reused=2, unreadable={})
    assert codec.encoded == 4
    assert torch.equal(cache.read(twice[5]), cache.read(samples[1]))


def test_another_crop_is_another_latent(tmp_path: Path) -> None:
    [sample] = make_samples(tmp_path / "photos", 1, lambda _: Geometry((96, 64), (0, 0, 64, 64)))
    moved = replace(sample, geometry=Geometry((96, 64), (32, 0, 96, 64)))
    cache, codec = open_cache(tmp_path / "cache"), ConvCodec()
    fill(cache, [sample], codec)
    assert fill(cache, [sample, moved], codec) == FillReport(encoded=1, reused=1, unreadable={})
    assert not torch.equal(cache.read(sample), cache.read(moved))


def test_a_changed_picture_is_another_latent(tmp_path: Path) -> None:
    [sample] = make_samples(tmp_path / "photos", 1)
    codec = ConvCodec()
    fill(open_cache(tmp_path / "cache"), [sample], codec)
    Image.new("RGB", (64, 64), "white").save(sample.path)
    cache = open_cache(tmp_path / "cache")
    assert fill(cache, [sample], codec).encoded == 1
    with torch.no_grad():
        white = codec.module(torch.ones(1, 3, 64, 64))[0]
    torch.testing.assert_close(cache.read(sample), white, rtol=0, atol=1e-5)


def test_every_ingredient_changes_the_key() -> None:
    ingredients = {
        "content_hash": ("a", "b"),
        "geometry": (SMALL, replace(SMALL, crop=(1, 0, 64, 64))),
        "family_name": ("sana", "omnigen"),
        "vae_fingerprint": ("x", "y"),
        "dtype": (torch.float32, torch.bfloat16),
        "codec_version": ("1", "2"),
    }
    plain = {name: pair[0] for name, pair in ingredients.items()}
    variants = [plain, *({**plain, name: pair[1]} for name, pair in ingredients.items())]
    variants += [{**plain, "geometry": replace(SMALL, resize=(65, 64))}]
    variants += [{**plain, "geometry": replace(SMALL, downsample=(128, 128))}]
    assert len({latent_key(**variant) for variant in variants}) == len(variants) == 9
    assert latent_key(**plain) == "70c7eccdc7108c2e12e02e978309ddce"


def test_unreadable_pictures_are_reported_and_the_rest_is_encoded(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 6)
    samples[1].path.unlink()
    whole = samples[3].path.read_bytes()
    samples[3].path.write_bytes(whole[: len(whole) // 2])
    samples.append(replace(samples[3], key="other/003.png"))
    cache, codec = open_cache(tmp_path / "cache"), ConvCodec()
    report = fill(cache, samples, codec)
    assert report.encoded == codec.encoded == 4
    assert report.reused == 0
    assert report.unreadable.keys() == {"photos/001.png", "photos/003.png", "other/003.png"}
    assert report.unreadable["photos/001.png"] == "No such file or directory"
    assert "truncated" in report.unreadable["photos/003.png"]
    assert codec.batches == [(4, 3, 64, 64)]


def test_non_finite_latents_stop_the_filling_and_name_the_sample(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 8)
    codec = ConvCodec()
    poisoned = load_pixels(samples[6].path, SMALL)

    class Overflowing(ConvCodec):
        def encode(self, pixels_BCHW: Tensor) -> Tensor:
            latents = super().encode(pixels_BCHW)
            latents[(pixels_BCHW == poisoned).flatten(1).all(dim=1)] = float("inf")
            return latents

    cache = open_cache(tmp_path / "cache")
    with pytest.raises(NonFiniteError, match=r"latents for photos/006\.png\n"):
        fill(cache, samples, Overflowing(), write_batch_size=100)
    again = open_cache(tmp_path / "cache")
    assert fill(again, samples, codec) == FillReport(encoded=4, reused=4, unreadable={})


def test_a_damaged_latent_is_named_and_rebuilt(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 8)
    cache = open_cache(tmp_path / "cache")
    fill(cache, samples, ConvCodec())
    intact = cache.read(samples[5])
    for shard in (tmp_path / "cache").glob("shard-*"):
        content = shard.read_bytes()
        stat = shard.stat()
        position = content.find(intact.numpy().tobytes())
        if position >= 0:
            shard.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
            os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DamagedEntry, match=r"photos/005\.png"):
        cache.read(samples[5])
    reopened, codec = open_cache(tmp_path / "cache"), ConvCodec()
    assert fill(reopened, samples, codec) == FillReport(encoded=1, reused=7, unreadable={})
    torch.testing.assert_close(reopened.read(samples[5]), intact, rtol=0, atol=1e-5)


def test_killed_in_the_middle_only_the_missing_is_encoded(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 32)
    whole = open_cache(tmp_path / "whole")
    fill(whole, samples, ConvCodec())

    killed = run_fill(tmp_path / "photos", tmp_path / "cache", kill_after=3)
    assert killed.wait() == -signal.SIGKILL
    cache, codec = open_cache(tmp_path / "cache"), ConvCodec()
    kept = len(cache.store)
    assert 12 <= kept < 32
    assert kept % 4 == 0
    assert fill(cache, samples, codec) == FillReport(encoded=32 - kept, reused=kept, unreadable={})
    assert codec.encoded == 32 - kept
    assert cache.store.keys() == whole.store.keys()
    for key in sorted(whole.store.keys()):
        left, right = whole.store.read(key)["latent"], cache.store.read(key)["latent"]
        assert left.numpy().tobytes() == right.numpy().tobytes()
    assert not list((tmp_path / "cache").glob(".tmp-*"))


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "photos", 32)
    fillers = [run_fill(tmp_path / "photos", tmp_path / "cache") for _ in range(2)]
    assert [filler.wait() for filler in fillers] == [0, 0]
    cache = open_cache(tmp_path / "cache")
    assert fill(cache, samples, ConvCodec()) == FillReport(encoded=0, reused=32, unreadable={})
    assert cache.store.verify() == []
    assert not list((tmp_path / "cache").glob(".tmp-*"))


def run_fill(photos: Path, folder: Path, kill_after: int = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, str(photos), str(folder), str(kill_after)])


def main(photos: Path, folder: Path, kill_after: int) -> None:
    """Fill a cache from 32 pictures; with `kill_after`, die as soon as that many shards are written."""
    samples = make_samples_of(photos)

    def progress(done: int, total: int) -> None:
        if kill_after and len(list(folder.glob("shard-*.safetensors"))) >= kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    fill(open_cache(folder), samples, ConvCodec(), progress=progress)


def make_samples_of(photos: Path) -> list[Sample]:
    return [
        Sample(f"{photos.name}/{path.name}", photos.name, str(path), ("a caption",), SMALL)
        for path in sorted(photos.glob("*.png"))
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
