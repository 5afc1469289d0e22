"""Files on their way to the hub, set aside so that pruning and later results cannot touch them."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

_STAGED = re.compile(r"\.upload-[0-9a-f]{32}")


def set_aside(output_dir: Path, files: Mapping[str, Path], texts: Mapping[str, str] | None = None) -> Path:
    """Link files, or copy them where the file system has no links, into a new folder.

    Args:
        output_dir: The run's folder; the new one is made in it.
        files: Place in the new folder -> file. Files are replaced in a run, never written to, so a link is enough.
        texts: Place in the new folder -> content of a file that is to be written there.

    Returns:
        The new folder.

    Raises:
        OSError: A file is missing or the disk is full; nothing is left behind.
    """
    folder = output_dir / f".upload-{uuid.uuid4().hex}"
    try:
        for place, file in files.items():
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(file, target)
        for place, text in (texts or {}).items():
            (folder / place).write_text(text, encoding="utf-8")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def remove_staged(output_dir: Path) -> None:
    """Delete what a killed run had set aside. Only names that this module makes are touched."""
    for path in output_dir.iterdir():
        if _STAGED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _link(file: Path, target: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
