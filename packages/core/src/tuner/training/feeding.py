"""Handing a loop its steps, on time for the device that trains on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from tuner.training.batches import BatchSource, DrawnBatch

T = TypeVar("T")


def feed(source: BatchSource, first: int, last: int, device: torch.device) -> Iterator[list[DrawnBatch]]:
    """Make the micro-batches of steps `first` to `last - 1`, counted from 0, that this process takes.

    On a CPU each step is made when it is asked for: the training itself keeps every core busy, and a thread beside it
    would delay it by more than it saves. For an accelerator each is made in a thread while its predecessor is trained
    on, in host memory that is pinned for faster copies. Until the iterator ends or is closed, the source belongs to
    that thread: nobody else may ask it for batches.
    """
    if device.type == "cuda":
        return one_ahead(lambda step: [batch.pinned() for batch in source.step(step)], first, last)
    return map(source.step, range(first, last))


def one_ahead(make: Callable[[int], T], first: int, last: int) -> Iterator[T]:
    """Yield what `make` returns for `first` to `last - 1`, making each in a thread while the one before is in use.

    The thread has ended when the iterator has, or is closed.
    """
    if first >= last:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        upcoming: Future[T] = pool.submit(make, first)
        for number in range(first + 1, last):
            ready = upcoming.result()
            upcoming = pool.submit(make, number)
            yield ready
        yield upcoming.result()
