"""Publishing as an extension: a model card beside every result, and uploads where they are asked for."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner import hookimpl
from tuner.adapters.files import WEIGHT_FILE
from tuner.config import RunConfig
from tuner.events import CheckpointSaved, ImagesValidated, RunEnded, RunStarted
from tuner.publishing.access import describe, opened_repository
from tuner.publishing.card_file import CARD, write_card
from tuner.publishing.pictures import last_round
from tuner.publishing.staging import remove_staged, set_aside
from tuner.publishing.story import CardPicture, Story
from tuner.publishing.uploads import Upload, Uploader

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
"""File of the settings, without paths and secrets, beside an uploaded result; it is in the repository alone."""

MOST_PICTURES = 8
"""Validation pictures of a card."""


def create(config: RunConfig) -> Publishing:
    """Take part in every run."""
    return Publishing(config)


class Publishing:
    """Writes the card and uploads. Whatever fails here is logged and changes nothing of the run."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._started: RunStarted | None = None
        self._uploader: Uploader | None = None
        self._pictures: ImagesValidated | None = None

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Open the repository."""
        self._started = event
        try:
            self._pictures = last_round(event.output_dir, self._config, event.first_step)
            remove_staged(event.output_dir)
            repository = opened_repository(self._config)
        except Exception as error:  # the run was let begin, so nothing stops it any more
            logger.warning("nothing will be uploaded: %s", describe(error))
            return
        self._uploader = Uploader(repository) if repository else None

    @hookimpl
    def images_validated(self, event: ImagesValidated) -> None:
        """Keep the newest pictures in mind, but not those of the base model."""
        if event.step > 0:
            self._pictures = event

    @hookimpl
    def checkpoint_saved(self, event: CheckpointSaved) -> None:
        """Upload its weights."""
        if self._uploader is None or not self._config.publishing.push_checkpoints_to_hub:
            return
        files = {f"{event.folder.name}/{name}": path for name, path in self._weights(event.folder).items()}
        self._upload(f"{event.folder.name}, weights of step {event.step}", event.folder.parent, files)

    @hookimpl(trylast=True)  # the others are done before anybody waits
    def run_ended(self, event: RunEnded) -> None:
        """Write the card, upload the result, and wait for what is on its way."""
        try:
            if event.exported is not None and self._started is not None:
                self._publish(event.step, event.exported, self._started)
            if self._uploader is not None:
                self._wait(self._uploader)
        except Exception as error:  # the result is written, and that is what counts
            logger.warning("the result was not published: %s", describe(error))

    def _publish(self, step: int, exported: Path, started: RunStarted) -> None:
        folder = started.output_dir
        card = write_card(folder, self._card(step, started))
        if card is None:
            logger.warning("no model card was written: %s holds others that somebody wrote", folder)
        if self._uploader is None:
            return
        files = self._result(exported, folder)
        if card is not None:
            files[CARD] = card
            files.update({picture.place: folder / picture.place for picture in self._card_pictures(started)})
        settings = json.dumps(dict(started.settings), indent=2, sort_keys=True, default=str) + "\n"
        self._upload(f"the result of {step} steps", folder, files, {SETTINGS: settings})

    def _card(self, step: int, started: RunStarted) -> str:
        from tuner.publishing.card import render_card  # imports the hub's client

        story = Story(
            config=self._config,
            facts=started.facts,
            origin=started.origin,
            samples=started.samples,
            step=step,
            pictures=self._card_pictures(started),
            repository=self._uploader.repository if self._uploader else None,
            instance_prompt=self._instance_prompt(started),
            hide=started.hide,
        )
        return render_card(story)

    def _card_pictures(self, started: RunStarted) -> tuple[CardPicture, ...]:
        if self._pictures is None:
            return ()
        prompts = self._pictures.prompts
        shown = [
            CardPicture(file.relative_to(started.output_dir).as_posix(), name, started.hide(prompts.get(name, "")))
            for name, files in self._pictures.files.items()
            for file in files[:1]
        ]
        return tuple(shown[:MOST_PICTURES])

    def _instance_prompt(self, started: RunStarted) -> str | None:
        prompts = {
            prompt
            for dataset in self._config.datasets
            if dataset.caption_strategy == "instanceprompt" and not dataset.is_regularisation_data
            for prompt in ([dataset.instance_prompt] if isinstance(dataset.instance_prompt, str) else [None])
        }
        prompt = prompts.pop() if len(prompts) == 1 else None
        return started.hide(prompt) if prompt else None

    def _result(self, exported: Path, folder: Path) -> dict[str, Path]:
        """Return place in the repository -> file of a result."""
        if exported.is_dir():
            return {path.relative_to(exported).as_posix(): path for path in exported.rglob("*") if path.is_file()}
        return self._weights(folder)

    def _weights(self, folder: Path) -> dict[str, Path]:
        """Return the files in a folder that other programs read, by their place in it."""
        if self._config.model.model_type == "full":
            files = [path for path in folder.glob("*/*") if path.is_file() and path.parent.name != "ema"]
        else:
            averages = [folder / "ema" / WEIGHT_FILE] if self._config.ema.use_ema else []
            files = [path for path in (folder / WEIGHT_FILE, *averages) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path for path in files}

    def _upload(
        self, title: str, output_dir: Path, files: Mapping[str, Path], texts: Mapping[str, str] | None = None
    ) -> None:
        assert self._uploader is not None
        try:
            self._uploader.add(Upload(title, set_aside(output_dir, files, texts)))
        except OSError as error:
            logger.warning("%s was not uploaded: %s", title, describe(error))

    def _wait(self, uploader: Uploader) -> None:
        if sys.exc_info()[0] is KeyboardInterrupt:  # somebody wants to leave at once
            uploader.leave()
            return
        with _leaving() as leaves:
            uploader.wait(leaves.is_set)


@contextmanager
def _leaving() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM inside the block into an event."""
    leaves = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield leaves
        return

    def leave(number: int, frame: Any) -> None:
        leaves.set()

    previous = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield leaves
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
