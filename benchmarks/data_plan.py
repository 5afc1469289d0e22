"""Planning a large data set: the first time, and again with a file index, against listing its folder.

    python benchmarks/data_plan.py [--images 10000 100000] [--rounds 15] [--output FILE]

The pictures are small files of five shapes in folders of 10,000. Everything runs in processes of its own, on files that
the system has in memory.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from report import Verdict, measure_in_child, run_children, write_report

PLAN_BAR = 5.0
FIRST_BAR = 3.0
GROWTH_BAR = 1.5
MEMORY_BAR = 6.0
SHAPES = ((64, 64), (96, 64), (64, 96), (80, 64), (64, 80))
FOLDER_SIZE = 10_000


def main() -> None:
    """Measure every size of data set, and print and write the table."""
    parser = argparse.ArgumentParser(description="Planning against os.scandir.")
    parser.add_argument("--images", nargs="+", type=int, default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=15, help="plans of each data set (default: 15)")
    parser.add_argument("--first-rounds", type=int, default=5, help="first plans of each data set (default: 5)")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    verdicts: list[Verdict] = []
    per_image: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for images in sorted(options.images):
            folder, index = Path(scratch) / str(images), Path(scratch) / f"index-{images}"
            _write_pictures(folder, images)
            case = (str(folder), str(index))
            first = measure_in_child(__file__, "first", *case, str(options.first_rounds))
            again = measure_in_child(__file__, "again", *case, str(options.rounds))
            verdicts += _rows(f"{images:,} images", first, again)
            verdicts.append(_memory(images, case))
            per_image.append(statistics.median(again["plan"]) / images)
    if len(per_image) > 1:
        few, many = per_image[0], per_image[-1]
        label = f"growth: second plan, per image, {max(options.images):,} against {min(options.images):,} images"
        verdicts.append(Verdict(label, f"{many * 1e6:.1f} us", f"{few * 1e6:.1f} us", many / few, GROWTH_BAR))
    write_report("Planning against os.scandir", verdicts, options.output)


def _rows(label: str, first: dict[str, Any], again: dict[str, Any]) -> list[Verdict]:
    names = f"names alone take {statistics.median(again['names']) * 1000:.1f} ms"
    listing = f"second plan: {label}, against listing names, sizes and times ({names})"
    return [
        Verdict.of_times(
            f"first plan: {label}, against opening every header", first["plan"], first["headers"], FIRST_BAR
        ),
        Verdict.of_times(listing, again["plan"], again["stat"], PLAN_BAR),
    ]


def _memory(images: int, case: tuple[str, str]) -> Verdict:
    plan, listing = (measure_in_child(__file__, "memory", *case, side)["bytes"] / images for side in ("plan", "stat"))
    label = f"memory: second plan, per image, {images:,} images, against a list of paths, sizes and times"
    return Verdict(label, f"{plan:.0f} bytes", f"{listing:.0f} bytes", plan / listing, MEMORY_BAR)


def child_first(folder: str, index: str, rounds: str) -> dict[str, Any]:
    """Time first plans and bare loops that open every picture for its size, in turns; in seconds."""
    from PIL import Image

    import tuner.data.build  # noqa: F401 - what is imported does not count

    def open_all() -> None:
        for path, _, _ in _list(folder, stat=True):
            with Image.open(path) as image:
                _ = image.size

    def plan() -> None:
        shutil.rmtree(index, ignore_errors=True)
        _plan(folder, index)

    open_all()  # nobody's first look at the files counts
    return _in_turns({"headers": open_all, "plan": plan}, int(rounds))


def child_again(folder: str, index: str, rounds: str) -> dict[str, Any]:
    """Time plans with a full index and listings in turns; in seconds."""
    sides: dict[str, Callable[[], object]] = {
        "plan": lambda: _plan(folder, index),
        "stat": lambda: _list(folder, stat=True),
        "names": lambda: _list(folder, stat=False),
    }
    return {side: values[1:] for side, values in _in_turns(sides, int(rounds) + 1).items()}


def child_memory(folder: str, index: str, side: str) -> dict[str, Any]:
    """Return by how many bytes the peak of resident memory rises."""
    import tuner.data.build  # noqa: F401 - what is imported does not count

    before = _peak()
    held = _plan(folder, index) if side == "plan" else _list(folder, stat=True)
    assert held
    return {"bytes": _peak() - before}


def _plan(folder: str, index: str) -> object:
    from contextlib import closing

    from tuner.config.datasets import DatasetConfig
    from tuner.data.build import build_plan
    from tuner.data.index import FileIndex

    dataset = DatasetConfig.model_validate({"id": "pictures", "instance_data_dir": folder, "resolution": 64})
    with closing(FileIndex(Path(index))) as files:
        return build_plan(
            [dataset],
            batch_size=4,
            accumulation=1,
            alignment=8,
            aspect_rounding=2,
            keep_small_buckets=False,
            seed=1,
            index=files,
        )


def _list(folder: str, stat: bool) -> list[tuple[str, int, int]]:
    """List a folder and its sub-folders: path, size and time of the last change of every file, or paths alone."""
    found, pending = [], [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append(entry.path)
                elif stat:
                    status = entry.stat()
                    found.append((entry.path, status.st_size, status.st_mtime_ns))
                else:
                    found.append((entry.path, 0, 0))
    return found


def _in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sorted(sides, reverse=bool(number % 2)):
            times[side].append(_timed(sides[side]))
    return times


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write_pictures(folder: Path, images: int) -> None:
    from PIL import Image

    contents = []
    for shape in SHAPES:
        buffer = io.BytesIO()
        Image.new("RGB", shape, (*shape, 40)).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    for number in range(images):
        place = folder / f"{number // FOLDER_SIZE:03}"
        if number % FOLDER_SIZE == 0:
            place.mkdir(parents=True)
        (place / f"picture_{number:06}.jpg").write_bytes(contents[number % len(contents)])


if __name__ == "__main__":
    run_children({"first": child_first, "again": child_again, "memory": child_memory}) or main()
