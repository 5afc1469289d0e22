"""Progress of long work: a bar on a terminal, plain lines in a file or pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

LINE_INTERVAL = 10.0
"""Seconds between plain lines."""


class Progress:
    """Rate and time left of a known amount of work.

    Args:
        total: Units of work.
        description: What is being done.
        unit: Name of a unit, such as "step".
        initial: Units that were done earlier.
        stream: Where it is shown; standard error by default.
    """

    def __init__(self, total: int, description: str, unit: str, initial: int = 0, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._plain = not stream.isatty()
        self._stream = stream
        self._last_line = time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=description,
            unit=unit,
            initial=initial,
            file=stream,
            disable=None if self._plain else False,
            dynamic_ncols=True,
        )
        self._initial = self._done = initial
        self._total = total
        self._description = description
        self._unit = unit
        self._started: float | None = None

    def advance_to(self, done: int, note: str = "", important: bool = False) -> None:
        """Show that `done` units are finished. An `important` state gets its line even if the last one is recent."""
        if not self._plain:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._done)
            self._done = done
            return
        self._done = done
        now = time.monotonic()
        if self._started is None:
            # What came before the first unit, such as loading, says nothing about the rate.
            self._started, self._initial = now, done
        if important or done >= self._total or now - self._last_line >= LINE_INTERVAL:
            self._last_line = now
            print(self._line(now, note), file=self._stream, flush=True)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _line(self, now: float, note: str) -> str:
        elapsed = now - (self._started or now)
        rate = (self._done - self._initial) / elapsed if elapsed > 0 else 0.0
        left = (self._total - self._done) / rate if rate > 0 else float("inf")
        parts = [f"{self._description}: {self._done}/{self._total} {self._unit}s"]
        if rate > 0:
            parts.append(f"{rate:.3g} {self._unit}s/s")
        if self._done < self._total and left != float("inf"):
            parts.append(f"{tqdm.format_interval(left)} left")
        return ", ".join([*parts, note] if note else parts)


class reporting:  # noqa: N801 - used like a function
    """A progress bar that appears with the first report: `with reporting(...) as report: report(done, total)`."""

    def __init__(self, description: str, unit: str) -> None:
        self._description, self._unit = description, unit
        self._progress: Progress | None = None

    def __enter__(self) -> Callable[[int, int], None]:
        return self._report

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.close()

    def _report(self, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = Progress(total, self._description, self._unit)
        self._progress.advance_to(done)


def hide_library_bars() -> None:
    """Turn off the bars that diffusers and transformers draw for loading and saving single files."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
