"""Filling the cache of latents against a bare loop that decodes, resizes and encodes.

    python benchmarks/caching.py [--pictures 96] [--rounds 5] [--output FILE]

The pictures are the photographs that scikit-image ships, as the files that they are. The product hashes, encodes and
writes them, read by threads or by processes; the comparison keeps nothing. All take turns in one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from report import Verdict, measure_in_child, run_children, write_report

CACHING_BAR = 1.053
"""The product makes at least 0.95 of the pictures per second."""
BATCH = 4
WRITTEN_TOGETHER = 128
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "motorcycle_left", "retina", "rocket")
CPU_SIZES = {"small": (8, 256), "medium": (32, 256)}
"""Name -> channels of the encoder's first block (real ones have 128), and edge of the pictures in pixels."""
ACCELERATOR_SIZES = {"small": (64, 1024), "real": (128, 1024)}


def main() -> None:
    """Measure every size of encoder, and print and write the table."""
    parser = argparse.ArgumentParser(description="Caching of latents against a bare loop.")
    parser.add_argument("--pictures", type=int, default=96, help="pictures in a round (default: 96)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    verdicts = []
    for size in measure_in_child(__file__, "sizes")["sizes"]:
        measured = measure_in_child(__file__, "times", size, str(options.pictures), str(options.rounds))
        times = measured["seconds_per_picture"]
        for side in ("threads", "processes"):
            label = f"caching: {size} encoder ({measured['encoder']}), per picture, {options.pictures} read by {side}"
            verdicts.append(Verdict.of_times(label, times[side], times["bare"], CACHING_BAR))
    write_report("Caching of latents against a bare loop", verdicts, options.output)


def child_sizes() -> dict[str, Any]:
    """Name the sizes of encoders that this machine can carry."""
    return {"sizes": list(_sizes())}


def child_times(size: str, pictures: str, rounds: str) -> dict[str, Any]:
    """Time the product and the bare loop in turns; seconds per picture, round by round."""
    from tuner.caching.readers import read_in_processes, read_in_threads

    channels, edge = _sizes()[size]
    codec, samples = _Codec(channels), _samples(edge, int(pictures))
    sides: dict[str, Callable[[], None]] = {
        "bare": lambda: _encode_bare(codec, samples),
        "processes": lambda: _fill(codec, samples, lambda _: read_in_processes()),
        "threads": lambda: _fill(codec, samples, lambda _: read_in_threads()),
    }
    _encode_bare(codec, samples[: 2 * BATCH])
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(int(rounds)):
        for side in sorted(sides, reverse=bool(number % 2)):
            started = time.perf_counter()
            sides[side]()
            times[side].append((time.perf_counter() - started) / len(samples))
    return {"seconds_per_picture": times, "encoder": f"{codec.parameters / 1e6:.1f}M parameters, {edge} pixels"}


class _Codec:
    """A randomly initialised encoder of the usual architecture."""

    def __init__(self, channels: int) -> None:
        import torch
        from diffusers import AutoencoderKL

        cuda = torch.cuda.is_available()
        torch.manual_seed(0)
        self.module = AutoencoderKL(
            block_out_channels=(channels, 2 * channels, 4 * channels, 4 * channels),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=8,
        ).eval()
        self.module.to("cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32)
        self.parameters = sum(weight.numel() for weight in self.module.encoder.parameters())

    def encode(self, pixels_BCHW: Any) -> Any:
        return self.module.encode(pixels_BCHW.to(self.module.dtype)).latent_dist.mode()

    def decode(self, latents_BCHW: Any) -> Any:
        return self.module.decode(latents_BCHW).sample


def _encode_bare(codec: _Codec, samples: Sequence[Any]) -> None:
    """Do it as a few lines of one's own would."""
    import numpy as np
    import torch
    from PIL import Image

    for start in range(0, len(samples), BATCH):
        batch = []
        for sample in samples[start : start + BATCH]:
            with Image.open(sample.file) as image:
                resized = image.convert("RGB").resize(sample.geometry.resize, Image.Resampling.LANCZOS)
            pixels_HWC = torch.from_numpy(np.array(resized.crop(sample.geometry.crop), dtype=np.float32))
            batch.append(pixels_HWC.permute(2, 0, 1).contiguous() / 127.5 - 1.0)
        with torch.inference_mode():
            codec.encode(torch.stack(batch).to(codec.module.device)).to("cpu")


def _fill(codec: _Codec, samples: Sequence[Any], open_reader: Callable[[int], AbstractContextManager[Any]]) -> None:
    """Fill a new cache."""
    from contextlib import closing

    from tuner.caching.latents import LatentCache
    from tuner.caching.store import ShardStore
    from tuner.data.index import FileIndex

    with tempfile.TemporaryDirectory() as folder, closing(FileIndex(Path(folder))) as index:
        cache = LatentCache(
            ShardStore(Path(folder) / "latents"),
            content_hash=index.content_hash,
            family_name="none",
            vae_fingerprint="random",
            dtype=codec.module.dtype,
            codec_version="1",
        )
        report = cache.fill(
            samples,
            open_codec=lambda: codec,
            batch_size=BATCH,
            write_batch_size=WRITTEN_TOGETHER,
            open_reader=open_reader,
        )
        assert report.encoded == len(samples)


def _samples(edge: int, count: int) -> list[Any]:
    """Crop each photograph at as many places as it takes: every crop is a latent of its own, and the work is equal."""
    from skimage import data

    from tuner.data.sample import Geometry, Sample

    folder = Path(data.__file__).parent
    found = [next(folder.glob(f"{name}.*"), None) for name in PHOTOGRAPHS]
    files = [str(path) for path in found if path is not None]
    shift = -(-count // len(files))
    return [
        Sample(
            key=f"photographs/{number}",
            dataset="photographs",
            file=file,
            captions=("a photograph",),
            geometry=Geometry(
                (edge + shift, edge + shift), (number // len(files), 0, number // len(files) + edge, edge)
            ),
        )
        for number, file in enumerate(islice(cycle(files), count))
    ]


def _sizes() -> dict[str, tuple[int, int]]:
    import torch

    return ACCELERATOR_SIZES if torch.cuda.is_available() else CPU_SIZES


if __name__ == "__main__":
    run_children({"sizes": child_sizes, "times": child_times}) or main()
