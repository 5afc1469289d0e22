"""What a model card tells of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuner.config import RunConfig
from tuner.publishing.access import kind_of
from tuner.types import FamilyFacts

PIPELINE = "pipeline"
"""Folder of a full tune's export in the output folder."""

_KINDS = {"lora": "LoRA", "lokr": "LoKr (LyCORIS)", "full": "full fine-tune"}


@dataclass(frozen=True)
class CardPicture:
    """A validation picture.

    Attributes:
        place: Where it is, relative to the card.
        nickname: Its prompt's nickname.
        prompt: Its prompt.
    """

    place: str
    nickname: str
    prompt: str


@dataclass(frozen=True)
class Story:
    """What is known of a run when its result is written.

    Attributes:
        config: The run's configuration.
        facts: The family's facts.
        origin: As `RunStarted.origin`.
        samples: Data set -> pictures that are trained on.
        step: Optimizer steps taken.
        pictures: The last validation pictures.
        repository: Where the result is published, owner/name, or None.
        instance_prompt: The one caption of all pictures, if there is just one.
        hide: As `RunStarted.hide`.
    """

    config: RunConfig
    facts: FamilyFacts
    origin: Mapping[str, str]
    samples: Mapping[str, int]
    step: int
    pictures: tuple[CardPicture, ...] = ()
    repository: str | None = None
    instance_prompt: str | None = None
    hide: Callable[[str], str] = str

    @property
    def kind(self) -> str:
        """What was trained, as `kind_of`."""
        return kind_of(self.config)

    @property
    def kind_title(self) -> str:
        """The same for people."""
        return _KINDS.get(self.kind, f"{self.kind} (LyCORIS)")

    @property
    def base(self) -> str:
        """The base model: a repository, or the name of a local folder."""
        return self.origin.get("base_model", "base-model")

    @property
    def base_repository(self) -> str | None:
        """The base model, if it is a repository."""
        return self.base if re.fullmatch(r"[\w.-]+/[\w.-]+", self.base) else None

    @property
    def licence(self) -> str | None:
        """The base model's licence as the family's facts give it; None where it is not one of the family's own."""
        for flavour in self.facts.flavours.values():
            if flavour.repo == self.base:
                return flavour.licence or self.facts.licence
        return None

    @property
    def title(self) -> str:
        """Name of the result."""
        if self.repository:
            return self.repository.rpartition("/")[2]
        return self.config.model.output_dir.resolve().name or self.facts.name

    @property
    def prompt(self) -> str:
        """A prompt that the result is shown with."""
        shown = [picture.prompt for picture in self.pictures if picture.prompt.strip()]
        return (shown or [self.instance_prompt or "a photograph of a lighthouse"])[0]

    @property
    def weights(self) -> Path:
        """Where the result is, relative to the card: an adapter's folder, or a pipeline's."""
        return Path(PIPELINE) if self.kind == "full" else Path()
