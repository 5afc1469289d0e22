"""Running alone in an output folder, and stopping politely: the step is finished and a checkpoint written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from tuner.errors import TunerError
from tuner.training.checkpoint import remove_leftovers
from tuner.training.processes import Processes


class StopRequest:
    """Turns the first SIGINT or SIGTERM inside the block into a request; a second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Signal handlers belong to the main thread; elsewhere the caller's own way of stopping applies.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def alone_in(output_dir: Path) -> Iterator[None]:
    """Keep a second run out of the same output folder. The lock goes with the process, however it ends."""
    lock = FileLock(output_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TunerError(
            f"another run is writing to {output_dir}\n    -> wait for it, or choose another output_dir"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def claimed(output_dir: Path, processes: Processes) -> Iterator[None]:
    """Make the output folder, keep other runs out of it and remove what killed ones were writing."""
    with ExitStack() as held:

        def claim() -> None:
            output_dir.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone_in(output_dir))
            remove_leftovers(output_dir)

        processes.on_main(claim)
        yield
