"""Measurements in child processes, and the table of what came out. Imports no torch, so that this process is small.

A child's peak of resident memory starts from that of the process that forked it: only a small parent tells nothing.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

_CHILD = "--child"


@dataclass(frozen=True)
class Verdict:
    """A row of the table.

    Attributes:
        name: What was measured.
        product: The product's figure, with its unit.
        bare: The figure that it is held against.
        ratio: Product / bare.
        bar: The largest ratio that is good enough.
        spread: The middle half of the ratios of single rounds, or nothing.
    """

    name: str
    product: str
    bare: str
    ratio: float
    bar: float
    spread: str = ""

    @classmethod
    def of_times(cls, name: str, product: Sequence[float], bare: Sequence[float], bar: float) -> Verdict:
        """Compare medians of times in seconds that were taken in turns."""
        first, second = statistics.median(product), statistics.median(bare)
        quarters = statistics.quantiles([mine / other for mine, other in zip(product, bare, strict=True)], n=4)
        spread = f"{quarters[0]:.3f} to {quarters[2]:.3f}, {len(product)} rounds"
        return cls(name, _milliseconds(first), _milliseconds(second), first / second, bar, spread)

    def row(self) -> str:
        """Return the row in Markdown."""
        met = "met" if self.ratio <= self.bar else "**not met**"
        return f"| {self.name} | {self.product} | {self.bare} | {self.ratio:.3f} | {self.spread} | {self.bar} | {met} |"


def measure_in_child(script: str, task: str, *arguments: str) -> dict[str, Any]:
    """Run a task of a benchmark script in a process of its own and return its result."""
    command = [sys.executable, script, _CHILD, task, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_children(tasks: Mapping[str, Callable[..., dict[str, Any]]]) -> bool:
    """Run the task that the command line names and print its result; tell whether it named one."""
    if sys.argv[1:2] != [_CHILD]:
        return False
    print(json.dumps(tasks[sys.argv[2]](*sys.argv[3:])))
    return True


def write_report(title: str, verdicts: Sequence[Verdict], path: Path | None) -> None:
    """Print the table of verdicts, and write it where asked to."""
    columns = ("what", "tuner", "bare", "ratio of medians", "middle half of rounds", "bar", "")
    write_table(title, columns, [verdict.row() for verdict in verdicts], path)


def write_table(title: str, columns: Sequence[str], rows: Sequence[str], path: Path | None) -> None:
    """Print a table of Markdown rows, and write it where asked to."""
    lines = [
        f"# {title}",
        "",
        f"{datetime.now(timezone.utc):%Y-%m-%d}, `python {' '.join(sys.argv)}`",
        "",
        machine(),
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def machine() -> str:
    """Describe the machine and what else it was doing."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    threads = os.environ.get("OMP_NUM_THREADS", "as many as there are cores")
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), OMP_NUM_THREADS {threads}, "
        f"Python {platform.python_version()}, {libraries}; load of the machine at the end: {load}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
