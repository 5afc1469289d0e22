"""The validation pictures that a card shows: those of the last round, also of an earlier run in the same folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner.config import RunConfig
from tuner.events import ImagesValidated

FOLDER = "validation_images"
"""Folder of validation pictures in the output folder."""

_NAME = re.compile(r"step_(?P<step>\d+)_(?P<nickname>.+)_(?P<number>\d+)_\d+x\d+\.png")


def last_round(output_dir: Path, config: RunConfig, last_step: int) -> ImagesValidated | None:
    """Return the last round of pictures that lies in the output folder, or None.

    Args:
        output_dir: The run's folder.
        config: Its configuration, which says which prompts there are.
        last_step: Pictures of later steps do not count.
    """
    from tuner.validation.pictures import picture_prompts  # imports torch

    prompts = {prompt.nickname: prompt.prompt for prompt in picture_prompts(config)}
    rounds: dict[int, dict[str, list[tuple[int, Path]]]] = {}
    for path in (output_dir / FOLDER).glob("step_*.png"):
        found = _NAME.fullmatch(path.name)
        if found and found["nickname"] in prompts and int(found["step"]) <= last_step:
            files = rounds.setdefault(int(found["step"]), {}).setdefault(found["nickname"], [])
            files.append((int(found["number"]), path))
    if not rounds:
        return None
    step = max(rounds)
    return ImagesValidated(step, "live", _in_order(rounds[step], list(prompts)), prompts)


def _in_order(files: Mapping[str, Sequence[tuple[int, Path]]], nicknames: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    return {name: tuple(path for _, path in sorted(files[name])) for name in nicknames if name in files}
