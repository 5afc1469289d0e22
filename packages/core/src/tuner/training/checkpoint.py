"""Checkpoints on disk: written beside their place, with hashes, and renamed into it; whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tuner.config.checkpoints import CheckpointConfig
from tuner.errors import CheckpointError

MANIFEST = "manifest.json"
STATE = "training_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_UNWRITABLE = (OSError, SafetensorError)
"""What a full disk raises: safetensors has an error of its own for it."""
_SCRATCH = re.compile(r"\.(?:checkpoint-\d+|removed)-[0-9a-f]{32}")


def checkpoint_step(folder: Path) -> int:
    """Return the step that a checkpoint folder's name gives, or -1."""
    match = _NAME.fullmatch(folder.name)
    return int(match.group(1)) if match else -1


def list_checkpoints(output_dir: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first. A folder without a manifest was not written by a run."""
    if not output_dir.is_dir():
        return []
    found = [path for path in output_dir.iterdir() if checkpoint_step(path) >= 0 and (path / MANIFEST).is_file()]
    return sorted(found, key=checkpoint_step)


def write_checkpoint(output_dir: Path, step: int, state: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """Write `output_dir/checkpoint-STEP`.

    Args:
        output_dir: The run's folder.
        step: Optimizer steps taken.
        state: JSON values for training_state.json.
        fill: Writes every other file into the folder that it is given.

    Raises:
        CheckpointError: The disk is full or cannot be written; earlier checkpoints are as they were.
    """
    final = output_dir / f"checkpoint-{step}"
    scratch = output_dir / f".checkpoint-{step}-{uuid.uuid4().hex}"
    try:
        scratch.mkdir(parents=True)
        fill(scratch)
        (scratch / STATE).write_text(json.dumps({"step": step, **state}, indent=2), encoding="utf-8")
        (scratch / MANIFEST).write_text(json.dumps(_hash_files(scratch), indent=2), encoding="utf-8")
        _sync(scratch)
        if final.exists():
            _remove(final)
        scratch.rename(final)
        _sync_folder(output_dir)
    except _UNWRITABLE as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise CheckpointError(f"cannot write {final}: {error}\n    -> earlier checkpoints are unharmed") from error
    return final


def try_checkpoint(output_dir: Path, fill: Callable[[Path], None]) -> None:
    """Write what a checkpoint holds, and remove it again.

    Args:
        output_dir: The run's folder.
        fill: Writes the files into the folder that it is given.

    Raises:
        CheckpointError: The disk is full or cannot be written.
    """
    scratch = output_dir / f".checkpoint-0-{uuid.uuid4().hex}"
    try:
        scratch.mkdir(parents=True)
        fill(scratch)
    except _UNWRITABLE as error:
        raise CheckpointError(
            f"no checkpoint can be written to {output_dir}: {error}\n    -> make room, or choose another output_dir"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def prune_checkpoints(output_dir: Path, limit: int) -> list[Path]:
    """Delete the oldest checkpoints beyond `limit`; 0 keeps all, and the newest is always kept."""
    kept = max(limit, 1)
    surplus = list_checkpoints(output_dir)[:-kept] if limit else []
    for folder in surplus:
        _remove(folder)
    return surplus


def remove_leftovers(output_dir: Path) -> None:
    """Delete what a killed run was writing or deleting. Only names that this module makes are touched."""
    if output_dir.is_dir():
        for path in output_dir.iterdir():
            if _SCRATCH.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def find_checkpoint(output_dir: Path, config: CheckpointConfig) -> Path | None:
    """Return the checkpoint to resume from, or None for a fresh start.

    Raises:
        CheckpointError: The one asked for does not exist, or a fresh start would write over existing ones.
    """
    existing = list_checkpoints(output_dir)
    names = ", ".join(path.name for path in existing) or "none"
    if config.wants_fresh_start():
        if existing:
            raise CheckpointError(
                f"resume_from_checkpoint is none, but {output_dir} holds the checkpoints of a run ({names})\n"
                "    -> choose another output_dir, move them away, or resume with resume_from_checkpoint=latest"
            )
        return None
    asked = str(config.resume_from_checkpoint)
    if asked == "latest":
        return existing[-1] if existing else None
    for candidate in (output_dir / asked, Path(asked).expanduser()):
        if (candidate / MANIFEST).is_file():
            return candidate
        if candidate.is_dir():
            raise CheckpointError(f"resume_from_checkpoint: {candidate} is incomplete: it has no {MANIFEST}")
    raise CheckpointError(
        f"resume_from_checkpoint: there is no {asked!r} (in {output_dir}: {names})\n"
        "    -> name one of these, or latest, or none to start afresh"
    )


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Verify every file of a checkpoint against its manifest and return its training state.

    Raises:
        CheckpointError: A file is missing, changed or cannot be read.
    """
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wrong = [name for name, digest in manifest.items() if _digest(folder / name) != digest]
        state = json.loads((folder / STATE).read_text(encoding="utf-8")) if not wrong else {}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(_damaged(folder, f"{type(error).__name__}: {error}")) from error
    if wrong:
        raise CheckpointError(_damaged(folder, f"{', '.join(wrong)} differ from what was written"))
    return state


def _damaged(folder: Path, reason: str) -> str:
    others = [path.name for path in list_checkpoints(folder.parent) if path != folder]
    remedy = (
        f"resume from {others[-1]} (resume_from_checkpoint={others[-1]})" if others else "start in another output_dir"
    )
    return f"checkpoint {folder} is damaged: {reason}\n    -> {remedy}; nothing was changed"


def _hash_files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        # hashlib.file_digest arrived with Python 3.11.
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every file system allows a folder to be synced."""
    with _ignored_os_errors():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _ignored_os_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


def _remove(folder: Path) -> None:
    """Delete a checkpoint so that a kill in the middle leaves no half of it under its name."""
    doomed = folder.with_name(f".removed-{uuid.uuid4().hex}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
