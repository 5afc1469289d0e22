"""Doing many things that wait for networks or disks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

Progress = Callable[[int, int], None]
"""Is told how many things are done, of how many."""

T = TypeVar("T")

THREADS = 16
"""Things done at a time."""


def in_parallel(work: Callable[[T], Any], items: Sequence[T], progress: Progress) -> None:
    """Do `work` with every item, in threads. The first failure ends it: what has not begun by then is left undone.

    Raises:
        Exception: Whatever `work` raised first.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                progress(done, len(items))
        except BaseException:  # KeyboardInterrupt too: leaving the block would wait for all
            pool.shutdown(wait=False, cancel_futures=True)
            raise
