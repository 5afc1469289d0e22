"""What a launcher tells the processes that it starts. Importing this module imports nothing else."""

from __future__ import annotations

import os
from typing import NamedTuple


class Launched(NamedTuple):
    """What a process knows of itself.

    Attributes:
        rank: Its number among all processes; number 0 writes and reports.
        processes: How many there are.
        local_rank: Its number on its machine.
    """

    rank: int
    processes: int
    local_rank: int


def launched() -> Launched | None:
    """Return what torchrun or `accelerate launch` tell this process, or None if neither has started it."""
    try:
        return Launched(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError):
        return None
