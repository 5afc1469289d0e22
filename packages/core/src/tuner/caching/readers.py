"""Reading pictures ahead of the encoder: in threads of this process, or in processes of their own.

Pillow decodes and resizes while other threads run, but 1 to 2 ms of Python are left for a picture of 512 pixels.
Threads share these with each other and with whoever feeds the encoder, which matters where there are many cores and the
encoder is fast. Processes do not, for the price of starting them.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tuner.caching.decoding import ask
from tuner.data.images import load_pixels, to_pixels
from tuner.data.sample import Geometry
from tuner.errors import CacheError

LoadPixels = Callable[[Path | str, Geometry], Tensor]
"""(file, geometry) -> float32 RGB pixels of shape (3, H, W) in [-1, 1]; called from several threads.
Raises OSError or DatasetError if the file cannot be read as a picture."""

OpenReader = Callable[[int], AbstractContextManager[LoadPixels]]
"""Number of pictures -> what reads them, as long as the block is open."""

# Not `multiprocessing`: it would import the user's script again, and its processes outlive one that is killed.
_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tuner.caching.decoding import serve; serve()"


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


READERS = min(16, _cores())
"""Pictures that are read at once."""
_WORTH_PROCESSES = 256  # pictures; a process takes a third of a second of a core to start, as much as reading 15


def picture_reader(pictures: int) -> AbstractContextManager[LoadPixels]:
    """Open processes where `pictures` are enough to pay for starting them, and threads otherwise."""
    return read_in_processes() if READERS > 1 and pictures >= _WORTH_PROCESSES else read_in_threads()


@contextmanager
def read_in_threads() -> Iterator[LoadPixels]:
    """Read in the threads that ask."""
    yield load_pixels


@contextmanager
def read_in_processes(count: int = READERS) -> Iterator[LoadPixels]:
    """Read in `count` processes, each of which serves one thread at a time.

    They end with the block, or with this process, however it ends. Interrupts of the terminal do not reach them.

    Raises:
        CacheError: From the function, if a process ends before its time.
    """
    free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(count):
            free.put(stack.enter_context(closing(_Process())))

        def load(path: Path | str, geometry: Geometry) -> Tensor:
            process = free.get()
            try:
                rgb_HWC = process.load(path, geometry)
            finally:
                free.put(process)
            return to_pixels(rgb_HWC)

        yield load


class _Process:
    """A process that serves."""

    def __init__(self) -> None:
        # Isolated, so that nothing in the working directory is imported before the path is that of this process.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _SERVE, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def load(self, path: Path | str, geometry: Geometry) -> NDArray[np.uint8]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            return ask(str(path), geometry, self._process.stdin, self._process.stdout)
        except EOFError as error:
            raise CacheError(
                f"{path}: the process that read this picture ended {_how(self._process.wait())}\n"
                "    -> if the machine is out of memory, end other programs; if it happens again at this picture, "
                "remove it from the data set. A new start continues after what is cached"
            ) from error

    def close(self) -> None:
        self._process.kill()  # it holds nothing that could be lost
        self._process.communicate()


def _how(code: int) -> str:
    if code < 0:
        return f"by signal {-code} ({signal.Signals(-code).name})"
    return f"with exit code {code}"
