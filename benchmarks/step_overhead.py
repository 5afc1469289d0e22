"""The product's training step against the bare loop: median time and peak memory.

    python benchmarks/step_overhead.py [--families sana] [--seconds 30] [--output FILE]

Time is taken in one process in which the product and the bare loop take turns, so that drift of the machine meets
both alike. Memory is taken in processes of their own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from report import Verdict, measure_in_child, run_children, write_report

BARS = {"twin": 1.10, "mid": 1.02}
MEMORY_BAR = 1.10
WARM_UP = 3
SHORTEST = 10
"""Least number of rounds that a median is taken over."""
MEMORY_STEPS = 4


def main() -> None:
    """Measure every family, size, way of training and batch size, and print and write the table."""
    parser = argparse.ArgumentParser(description="The product's training step against the bare loop.")
    parser.add_argument("--families", nargs="+", default=["sana"])
    parser.add_argument("--sizes", nargs="+", default=list(BARS), choices=list(BARS))
    parser.add_argument("--kinds", nargs="+", default=["full", "lokr"], choices=["full", "lokr"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--seconds", type=float, default=30.0, help="time to spend on each row (default: 30)")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    verdicts = []
    with tempfile.TemporaryDirectory() as scratch:
        for family in options.families:
            for size in options.sizes:
                folder = Path(scratch) / family / size
                config = measure_in_child(__file__, "project", family, size, str(folder))["config"]
                for kind in options.kinds:
                    for batch in options.batches:
                        verdicts += _measure(f"{family} {size}", size, config, kind, batch, options.seconds)
    write_report("Training step against a bare torch loop", verdicts, options.output)


def _measure(name: str, size: str, config: str, kind: str, batch: int, seconds: float) -> list[Verdict]:
    case = (config, kind, str(batch))
    label = f"{name}, {kind}, batch of {batch}"
    times = measure_in_child(__file__, "times", *case, str(seconds))
    product, bare = (measure_in_child(__file__, "memory", *case, side)["bytes"] / 2**20 for side in ("product", "bare"))
    return [
        Verdict.of_times(f"step: {label}", times["product"], times["bare"], BARS[size]),
        Verdict(f"memory: {label}", f"{product:.0f} MiB", f"{bare:.0f} MiB", product / bare, MEMORY_BAR),
    ]


def child_project(family: str, size: str, folder: str) -> dict[str, Any]:
    """Write a project and fill its caches."""
    from projects import write_project

    Path(folder).mkdir(parents=True)
    return {"config": str(write_project(family, size, Path(folder)))}


def child_times(config: str, kind: str, batch: str, seconds: str) -> dict[str, Any]:
    """Time product and bare loop in turns; seconds per step, pair by pair."""
    from stages import prepare_bare, prepare_product, synchronise

    prepared = prepare_product(Path(config), kind, int(batch))
    sides: dict[str, Callable[[], object]] = {
        "product": _stepper(prepared.steps()),
        "bare": _counted(prepare_bare(prepared.loaded, prepared.batches, prepared.shift).step),
    }
    # An accelerator works behind the host's back: there only several steps in a row can be timed without a stop each.
    in_a_row = 1 if prepared.device.type == "cpu" else 10
    times: dict[str, list[float]] = {"product": [], "bare": []}
    deadline = float("inf")
    for number in count():
        if number == WARM_UP:
            deadline = time.perf_counter() + float(seconds)
        if number >= WARM_UP + SHORTEST and time.perf_counter() > deadline:
            break
        for side in sorted(sides, reverse=bool(number % 2)):
            synchronise(prepared.device)
            started = time.perf_counter()
            for _ in range(in_a_row):
                sides[side]()
            synchronise(prepared.device)
            times[side].append((time.perf_counter() - started) / in_a_row)
    return {side: values[WARM_UP:] for side, values in times.items()}


def child_memory(config: str, kind: str, batch: str, side: str) -> dict[str, Any]:
    """Return the peak memory of a process that takes a few steps."""
    from stages import load_case, peak_memory, prepare_bare, prepare_product, stored_batches

    if side == "product":
        step = _stepper(prepare_product(Path(config), kind, int(batch)).steps())
    else:
        batches, shift = stored_batches(Path(config), int(batch))
        step = _counted(prepare_bare(load_case(Path(config), kind, int(batch)), batches, shift).step)
    for _ in range(MEMORY_STEPS):
        step()
    return {"bytes": peak_memory()}


def _stepper(steps: Iterator[int]) -> Callable[[], object]:
    return lambda: next(steps)


def _counted(step: Callable[[int], object]) -> Callable[[], object]:
    numbers = count()
    return lambda: step(next(numbers))


if __name__ == "__main__":
    run_children({"project": child_project, "times": child_times, "memory": child_memory}) or main()
