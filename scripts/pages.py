"""Pages of the documentation that are written from the code."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_compare(file: Path, page: str, target: str) -> int:
    """Write a page or, with `--check`, compare it with the file; return 1 if that is out of date.

    Args:
        file: The page's place.
        page: What it should hold.
        target: What `make` calls writing it.
    """
    if "--check" not in sys.argv:
        file.write_text(page, encoding="utf-8")
        return 0
    if file.is_file() and file.read_text(encoding="utf-8") == page:
        return 0
    print(f"{file} does not say what the code says; write it anew with `make {target}`", file=sys.stderr)
    return 1
