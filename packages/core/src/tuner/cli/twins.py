"""Writing twins."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import TunerError
from tuner.plugins import Family, create_manager
from tuner.tracking.bars import hide_library_bars


def write_twin(family: Family, folder: Path) -> Path:
    """Write a family's twin.

    Raises:
        TunerError: The folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TunerError(f"{folder} is not empty; a twin is written to a new folder\n    -> choose another one")
    hide_library_bars()
    return Path(create_manager(family).hook.make_twin(folder=folder))
