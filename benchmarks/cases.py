"""The models that benchmarks measure, as the command line chooses them. Imports no torch, as `report` does not."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from report import measure_in_child, run_children

SIZES = ("twin", "mid")
KINDS = ("full", "lokr")


def case_parser(description: str, sizes: Sequence[str] = SIZES) -> argparse.ArgumentParser:
    """Return a parser of families, sizes (those measured if none is named: `sizes`) and the file to write."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--families", nargs="+", default=["sana"])
    parser.add_argument("--sizes", nargs="+", default=list(sizes), choices=SIZES)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    return parser


def add_kinds(parser: argparse.ArgumentParser) -> None:
    """Add the ways of training."""
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """Add the time that a row may take."""
    parser.add_argument("--seconds", type=float, default=30.0, help="time to spend on each row (default: 30)")


def written_projects(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Write the projects asked for, one after the other; yield family, size and configuration file of each.

    A process of its own writes each. All are gone at the end.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for family in options.families:
            for size in options.sizes:
                folder = Path(scratch) / family / size
                yield family, size, measure_in_child(__file__, "project", family, size, str(folder))["config"]


def child_project(family: str, size: str, folder: str) -> dict[str, Any]:
    """Write a project and fill its caches."""
    from projects import write_project

    Path(folder).mkdir(parents=True)
    return {"config": str(write_project(family, size, Path(folder)))}


if __name__ == "__main__":
    run_children({"project": child_project})
