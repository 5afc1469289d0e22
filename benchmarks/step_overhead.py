"""The product's training step against the bare loop: median time and peak memory.

    python benchmarks/step_overhead.py [--families sana] [--seconds 30] [--output FILE]

Time is taken in one process in which the product and the bare loop take turns, so that drift of the machine meets
both alike. Memory is taken in processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from cases import add_kinds, add_seconds, case_parser, written_projects
from report import Verdict, measure_in_child, run_children, write_report

BARS = {"twin": 1.10, "mid": 1.02}
MEMORY_BAR = 1.10
MEMORY_STEPS = 4


def main() -> None:
    """Measure every family, size, way of training and batch size, and print and write the table."""
    parser = case_parser("The product's training step against the bare loop.")
    add_kinds(parser)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 3, 4])
    add_seconds(parser)
    options = parser.parse_args()
    verdicts = []
    for family, size, config in written_projects(options):
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


def child_times(config: str, kind: str, batch: str, seconds: str) -> dict[str, Any]:
    """Time product and bare loop in turns; seconds per step, pair by pair."""
    from stages import WARM_UP, prepare_bare, prepare_product, times_in_turns

    prepared = prepare_product(Path(config), kind, int(batch))
    sides: dict[str, Callable[[], object]] = {
        "product": _stepper(prepared.steps()),
        "bare": _counted(prepare_bare(prepared.loaded, prepared.batches, prepared.shift).step),
    }
    # An accelerator works behind the host's back: there only several steps in a row can be timed without a stop each.
    in_a_row = 1 if prepared.device.type == "cpu" else 10
    times = times_in_turns(sides, prepared.device, float(seconds), in_a_row)
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
    run_children({"times": child_times, "memory": child_memory}) or main()
