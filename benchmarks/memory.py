"""Peak memory of training against the options that lower it.

    python benchmarks/memory.py [--families sana] [--sizes twin] [--batches 1 4] [--output FILE]

Every row is the peak of a process of its own that takes a few steps: resident memory on a CPU, allocated memory on an
accelerator. `idle` is the same process before its first step: libraries, weights and caches, but no activation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases import add_kinds, case_parser, written_projects
from report import measure_in_child, run_children, write_table

STEPS = 4


def main() -> None:
    """Measure every family, size, way of training, batch size and option, and print and write the table."""
    parser = case_parser("Peak memory against the options that lower it.", sizes=["twin"])
    add_kinds(parser)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    options = parser.parse_args()
    rows = [
        _row(f"{family} {size}", config, kind, batch)
        for family, size, config in written_projects(options)
        for kind in options.kinds
        for batch in options.batches
    ]
    _write(rows, options.output)


def _row(name: str, config: str, kind: str, batch: int) -> str:
    """Measure without and with checkpointing; on an accelerator, an adapter's with group offload as well."""
    cells, idle = [], 0.0
    for mode in ("plain", "checkpointing", "offload"):
        measured = measure_in_child(__file__, "peak", config, kind, str(batch), mode)
        idle = max(idle, measured.get("idle", 0) / 2**20)
        cells.append(f"{measured['peak'] / 2**20:.0f}" if measured else "")
    return f"| {name}, {kind} | {batch} | {idle:.0f} | {' | '.join(cells)} |"


def _write(rows: list[str], path: Path | None) -> None:
    columns = ("what", "batch", "idle", "neither", "gradient_checkpointing", "and enable_group_offload")
    write_table("Peak memory of training, MiB", columns, rows, path)


def child_peak(config: str, kind: str, batch: str, mode: str) -> dict[str, Any]:
    """Return the peak before and after a few steps; nothing where the mode does not apply."""
    import torch

    from stages import load_case, peak_memory, steps_of
    from tuner.training.interruption import StopRequest
    from tuner.training.run import prepare_run

    if mode == "offload" and (kind == "full" or not torch.cuda.is_available()):
        return {}
    settings = {"gradient_checkpointing": mode != "plain", "enable_group_offload": mode == "offload"}
    run = prepare_run(load_case(Path(config), kind, int(batch), settings), StopRequest())
    idle = peak_memory()
    steps = steps_of(run)
    for _ in range(STEPS):
        next(steps)
    return {"idle": idle, "peak": peak_memory()}


if __name__ == "__main__":
    run_children({"peak": child_peak}) or main()
