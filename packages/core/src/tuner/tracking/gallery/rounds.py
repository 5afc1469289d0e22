"""Rounds of validation pictures, remembered in `pictures.jsonl` so that a resumed run still shows the earlier ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from tuner.events import ImagesValidated
from tuner.tracking.gallery.files import read_rows, write_whole

ROUNDS_FILE = "pictures.jsonl"


@dataclass(frozen=True)
class Picture:
    """A picture of a round.

    Attributes:
        file: Its path relative to the output folder, with "/" on every system.
        width: In pixels.
        height: In pixels.
    """

    file: str
    width: int
    height: int


@dataclass(frozen=True)
class Round:
    """A round of pictures.

    Attributes:
        step: Steps taken; 0 for the base model.
        label: Whose weights made them.
        pictures: Prompt's nickname -> its pictures, one for each size.
        prompts: Prompt's nickname -> the prompt.
    """

    step: int
    label: str
    pictures: dict[str, list[Picture]]
    prompts: dict[str, str]

    @property
    def key(self) -> tuple[int, str]:
        """What no two rounds of a run share."""
        return self.step, self.label


def measure_round(event: ImagesValidated, folder: Path) -> Round:
    """Return the round that an event tells of. Pictures outside `folder` are left out: their paths are private.

    Raises:
        OSError: A picture cannot be read.
    """
    pictures: dict[str, list[Picture]] = {}
    for nickname, files in event.files.items():
        pictures[nickname] = []
        for file in files:
            relative = Path(os.path.relpath(file, folder))
            if ".." not in relative.parts and not relative.is_absolute():
                with Image.open(file) as picture:  # reads the header alone
                    pictures[nickname].append(Picture(relative.as_posix(), *picture.size))
    return Round(event.step, event.label, pictures, dict(event.prompts))


def read_rounds(folder: Path, up_to: int) -> list[Round]:
    """Read the rounds of steps up to `up_to`, as far as their pictures still exist."""
    rounds = []
    for row in read_rows(folder / ROUNDS_FILE, up_to):
        try:
            found = {
                nickname: [picture for picture in (Picture(**entry) for entry in entries) if _exists(folder, picture)]
                for nickname, entries in row["pictures"].items()
            }
            rounds.append(Round(row["step"], row["label"], found, dict(row["prompts"])))
        except (KeyError, TypeError, ValueError, AttributeError):  # somebody else's line
            continue
    return [each for each in rounds if any(each.pictures.values())]


def write_rounds(rounds: Iterable[Round], folder: Path) -> None:
    """Write the rounds for `read_rounds`.

    Raises:
        OSError: They could not be written.
    """
    text = "".join(json.dumps(asdict(each)) + "\n" for each in rounds)
    write_whole(folder / ROUNDS_FILE, lambda scratch: scratch.write_text(text, encoding="utf-8"))


def _exists(folder: Path, picture: Picture) -> bool:
    return (folder / picture.file).is_file()
