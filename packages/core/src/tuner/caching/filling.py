"""What filling a cache has in common, whatever is cached."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Called with (entries done, entries missing at the start) after every batch."""


@dataclass(frozen=True)
class FillReport:
    """What a filling did. The three add up to what was asked for.

    Attributes:
        encoded: Entries that were computed.
        reused: What was served by an entry that was there, or by an equal one of the same filling.
        unreadable: Sample key -> why its picture cannot be read.
    """

    encoded: int
    reused: int
    unreadable: Mapping[str, str] = field(default_factory=dict)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; whole numbers never do."""
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[tuple[Item, Future[Result]]]:
    """Apply `function` in threads, in order, with at most `ahead` results waiting or under way."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cache-reader")
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
