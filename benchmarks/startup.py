"""How long a command takes to answer, and a training run to take its first step.

    python benchmarks/startup.py [--families sana] [--runs 7] [--output FILE]

Every figure is the median over whole processes; product and comparison take turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cases import case_parser, written_projects
from report import Verdict, write_report

T = TypeVar("T")

ANSWER_BAR = 3.0
FIRST_STEP_BAR = 1.5
TUNER = Path(sys.executable).with_name("tuner")
POLL = 0.002
"""Seconds between two looks at the journal: it appears when a run is ready, and gets a line after the first step."""

LOAD = """
import json, pathlib, sys
import torch, diffusers, transformers
root, folder = pathlib.Path(sys.argv[1]), sys.argv[2]
for part in (folder, "scheduler"):
    library, name = json.loads((root / "model_index.json").read_text())[part]
    getattr(diffusers, name).from_pretrained(root / part, local_files_only=True)
print("loaded", flush=True)
"""
"""The comparison of a run's start: import the libraries and load the same weights."""


def main() -> None:
    """Measure, and print and write the table."""
    parser = case_parser("Start-up against bare processes.")
    parser.add_argument("--runs", type=int, default=7, help="processes for each figure (default: 7)")
    options = parser.parse_args()
    verdicts = [_answer(command, 3 * options.runs) for command in ("--help", "families")]
    for family, size, config in written_projects(options):
        verdicts += _first_step(f"{family} {size}", Path(config), options.runs)
    write_report("Start-up", verdicts, options.output)


def _answer(argument: str, runs: int) -> Verdict:
    product, bare = _in_turns(
        lambda: _run([str(TUNER), argument]), lambda: _run([sys.executable, "-c", "import pydantic"]), runs
    )
    return Verdict.of_times(f"`tuner {argument}` against `import pydantic`", product, bare, ANSWER_BAR)


def _first_step(name: str, config: Path, runs: int) -> list[Verdict]:
    """The comparison takes no step, so the second row also holds the arithmetic of one."""
    model = json.loads(config.read_text(encoding="utf-8"))["pretrained_model_name_or_path"]
    denoiser = _denoiser_folder(Path(model))
    product, bare = _in_turns(
        lambda: _run_to_first_step(config), lambda: _run_to_loaded([sys.executable, "-c", LOAD, model, denoiser]), runs
    )
    label = f"caches full: {name}, LoKr, batch of 1, against imports and loading"
    return [
        Verdict.of_times(f"ready for the first step, {label}", [ready for ready, _ in product], bare, FIRST_STEP_BAR),
        Verdict.of_times(f"first step taken, {label}", [taken for _, taken in product], bare, FIRST_STEP_BAR),
    ]


def _in_turns(product: Callable[[], T], bare: Callable[[], float], runs: int) -> tuple[list[T], list[float]]:
    """Time both in turns; the first of each is left out, since it fills the file cache."""
    times = [(product(), bare()) for _ in range(runs + 1)][1:]
    return [mine for mine, _ in times], [other for _, other in times]


def _run(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - started


def _run_to_loaded(command: list[str]) -> float:
    """Time a process until it says a word: how long it takes to end does not count, as it does not for a run."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"{' '.join(command)} failed")
        taken = time.perf_counter() - started
        process.kill()
    return taken


def _run_to_first_step(config: Path) -> tuple[float, float]:
    """Time `tuner train` until its journal appears and until it has a line, and end it there."""
    with tempfile.TemporaryDirectory() as output:
        journal = Path(output) / "metrics.jsonl"
        settings = ["--train_batch_size", "1", "--output_dir", output]
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(TUNER), "train", str(config), *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_until(journal.is_file, process)
            ready = time.perf_counter() - started
            _wait_until(lambda: journal.stat().st_size > 0, process)
            return ready, time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


def _wait_until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not reached():
        if process.poll() is not None:
            raise SystemExit("tuner train ended before its first step")
        time.sleep(POLL)


def _denoiser_folder(model: Path) -> str:
    parts = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    return next(name for name in ("transformer", "unet") if name in parts)


if __name__ == "__main__":
    main()
