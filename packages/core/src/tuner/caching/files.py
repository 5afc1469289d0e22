"""Files that appear whole or not at all, and small JSON memos.

A file is written to a temporary name in its own folder, flushed to the disk and renamed. The name says which
process writes it, so that what a killed process left behind can be told from what a live one is writing.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.tmp-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{32}$")
# Writing takes seconds. This covers what a process id cannot tell: other machines, other containers, reused ids.
_LONGEST_WRITE_SECONDS = 3600.0


def write_aside(target: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file next to `target`, then rename it into place, replacing what was there.

    Raises:
        OSError: The file could not be written, flushed or renamed; `target` is as it was before.
    """
    temporary = target.with_name(f".tmp-{platform.node() or 'host'}-{os.getpid()}-{uuid.uuid4().hex}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files that nobody else may read, whatever the umask
        _flush_to_disk(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the file is in place; not every file system can flush a folder
        _flush_to_disk(target.parent)


def find_leftovers(folder: Path) -> list[Path]:
    """Return temporary files of processes that no longer live."""
    return sorted(path for path in folder.glob(".tmp-*") if _is_left_over(path))


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of processes that no longer live; leave those of live ones alone."""
    for path in find_leftovers(folder):
        with contextlib.suppress(OSError):  # deleted by another process meanwhile, or the folder is read-only
            path.unlink()


def _is_left_over(path: Path) -> bool:
    name = _TEMPORARY.fullmatch(path.name)
    if name is None:
        return False
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False  # renamed by its writer meanwhile
    died = name["host"] == (platform.node() or "host") and not _is_alive(int(name["pid"]))
    return died or age > _LONGEST_WRITE_SECONDS


def load_memo(path: Path) -> dict[str, Any]:
    """Read a JSON object that only saves work: whatever is wrong with it, the answer is an empty one."""
    try:
        memo = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}


def save_memo(path: Path, memo: dict[str, Any]) -> None:
    """Write a memo for `load_memo`. One that cannot be written is done without."""
    text = json.dumps(memo, sort_keys=True)
    try:
        write_aside(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError:
        return


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
