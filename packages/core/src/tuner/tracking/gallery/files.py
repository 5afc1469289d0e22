"""Small files that are there whole or as they were before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a scratch file beside `target`, then rename it into place.

    What is written here can be made anew at any time, so nothing waits for the disk.

    Raises:
        OSError: It could not be written; `target` is as it was before.
    """
    scratch = target.with_name(f".{target.name}.tmp")
    try:
        write(scratch)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def read_rows(path: Path, up_to: int) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file whose step is at most `up_to`; what is no such object is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the torn last line of a killed run
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] <= up_to:
            yield row
