"""The training step with compiled blocks (`dynamo_backend inductor`) against the same step without.

    python benchmarks/compiling.py [--families sana] [--sizes mid] [--seconds 30] [--output FILE]

Both runs take turns in one process. What compiling takes is in the label: the first step, which is in no median.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from report import Verdict, measure_in_child, run_children, write_report

STEP_SCRIPT = Path(__file__).with_name("step_overhead.py")
BAR = 1.0
WARM_UP = 3
SHORTEST = 10


def main() -> None:
    """Measure every family, size and way of training, and print and write the table."""
    parser = argparse.ArgumentParser(description="Compiled blocks against blocks as they are.")
    parser.add_argument("--families", nargs="+", default=["sana"])
    parser.add_argument("--sizes", nargs="+", default=["mid"], choices=["twin", "mid"])
    parser.add_argument("--kinds", nargs="+", default=["full", "lokr"], choices=["full", "lokr"])
    parser.add_argument("--seconds", type=float, default=30.0, help="time to spend on each row (default: 30)")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    verdicts = []
    with tempfile.TemporaryDirectory() as scratch:
        for family in options.families:
            for size in options.sizes:
                folder = Path(scratch) / family / size
                config = measure_in_child(str(STEP_SCRIPT), "project", family, size, str(folder))["config"]
                for kind in options.kinds:
                    times = measure_in_child(__file__, "times", config, kind, str(options.seconds))
                    name = f"{family} {size}, {kind}, compiled in {times['first']:.0f} s"
                    verdicts.append(Verdict.of_times(name, times["compiled"], times["plain"], BAR))
    write_report("Training step with compiled blocks (tuner) and without (bare)", verdicts, options.output)


def child_times(config: str, kind: str, seconds: str) -> dict[str, Any]:
    """Time steps with and without compiled blocks in turns; seconds per step, and those of the compiled first one."""
    from stages import load_case, steps_of, synchronise
    from tuner.training.interruption import StopRequest
    from tuner.training.run import prepare_run

    runs = {
        side: prepare_run(load_case(Path(config), kind, 1, {"dynamo_backend": backend}), StopRequest())
        for side, backend in (("compiled", "inductor"), ("plain", "no"))
    }
    device = runs["plain"].session.device
    steps = {side: steps_of(run) for side, run in runs.items()}
    times: dict[str, list[float]] = {"compiled": [], "plain": []}
    deadline = float("inf")
    for number in count():
        if number == WARM_UP:
            deadline = time.perf_counter() + float(seconds)
        if number >= WARM_UP + SHORTEST and time.perf_counter() > deadline:
            break
        for side in sorted(steps, reverse=bool(number % 2)):
            synchronise(device)
            started = time.perf_counter()
            next(steps[side])
            synchronise(device)
            times[side].append(time.perf_counter() - started)
    return {"first": times["compiled"][0], **{side: values[WARM_UP:] for side, values in times.items()}}


if __name__ == "__main__":
    run_children({"times": child_times}) or main()
