"""Uploads in the background: one at a time, the newest first, each a single commit. A failure is logged, no more.

What may pass, such as a hub that has too much to do, is waited out for a while first.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.publishing.access import describe, may_pass
from tuner.publishing.card_file import CARD, is_untouched

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

logger = logging.getLogger(__name__)

LINE_INTERVAL = 10.0
"""Seconds between lines that say how far an upload is."""

SLOWEST_BYTES_PER_SECOND = 100_000
PATIENCE_SECONDS = 600.0
"""A file that takes this much longer than at the slowest rate is given up when nothing else is left to do."""

PAUSES = (10.0, 60.0)
"""Seconds before an upload that failed is made once more, and then once more again, where what went wrong may pass."""

_TICK = 0.1


@dataclass(frozen=True)
class Upload:
    """Files that become one commit.

    Attributes:
        title: What it is, as log and commit call it.
        folder: Holds the files as the repository will; deleted afterwards.
    """

    title: str
    folder: Path


class Uploader:
    """Sends folders to one repository from a thread of its own. Nothing in the repository is deleted.

    Args:
        repository: owner/name.
    """

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self._changed = threading.Condition()
        self._waiting: list[Upload] = []
        self._current: Upload | None = None
        self._progress = ""
        self._deadline = 0.0
        self._left = False
        self._thread: threading.Thread | None = None

    def add(self, upload: Upload) -> None:
        """Send a folder as soon as nothing is being sent, before those that wait already."""
        with self._changed:
            self._waiting.append(upload)
            self._changed.notify_all()
            if self._thread is None:
                # A daemon: a hub that never answers must not keep the process alive.
                self._thread = threading.Thread(target=self._work, name="tuner-upload", daemon=True)
                self._thread.start()

    def wait(self, leaves: Callable[[], bool]) -> bool:
        """Wait until all is sent, with a line about it now and then.

        Args:
            leaves: Asked several times a second whether to leave the rest unsent.

        Returns:
            Whether nothing is left.
        """
        said = float("-inf")
        with self._changed:
            while self._current is not None or self._waiting:
                now = time.monotonic()
                if leaves() or (self._current is not None and now > self._deadline):
                    self._leave()
                    return False
                if now - said >= LINE_INTERVAL:
                    logger.info("waiting for uploads to %s (Ctrl-C leaves them): %s", self.repository, self._state())
                    said = now
                self._changed.wait(timeout=_TICK)
        return True

    def leave(self) -> None:
        """Drop what is not sent yet."""
        with self._changed:
            self._leave()

    def _leave(self) -> None:
        self._left = True
        unsent = [*self._waiting, *([self._current] if self._current else [])]
        self._waiting.clear()
        for upload in unsent:
            logger.warning("%s was not uploaded to %s: it was left", upload.title, self.repository)
            shutil.rmtree(upload.folder, ignore_errors=True)
        self._changed.notify_all()

    def _state(self) -> str:
        more = f", {len(self._waiting)} more after it" if self._current and self._waiting else ""
        return f"{self._progress or 'about to begin'}{more}"

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                self._current = upload = self._waiting.pop()
                self._note(f"{upload.title} is about to begin", 0)
            try:
                address = self._send_patiently(upload)
                if not self._left:
                    logger.info("uploaded %s: %s", upload.title, address)
            except Exception as error:  # the client raises its own, the transport's and the operating system's errors
                if not self._left:
                    logger.warning(
                        "%s was not uploaded to %s: %s; the run goes on, and its files are in its output_dir",
                        upload.title, self.repository, describe(error),
                    )  # fmt: skip
            shutil.rmtree(upload.folder, ignore_errors=True)
            with self._changed:
                self._current, self._progress = None, ""
                self._changed.notify_all()

    def _send_patiently(self, upload: Upload) -> str:
        for pause in PAUSES:
            try:
                return self._send(upload)
            except Exception as error:  # as in `_work`
                if self._left or not may_pass(error):
                    raise
                logger.warning("%s: %s; it is sent again in %g seconds", upload.title, describe(error), pause)
                self._note(f"{upload.title} is about to be sent again", 0)
                with self._changed:
                    if self._changed.wait_for(lambda: self._left, timeout=pause):
                        raise
        return self._send(upload)

    def _send(self, upload: Upload) -> str:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # they would be drawn into the training's own
        api = HfApi()
        paths = sorted(path for path in upload.folder.rglob("*") if path.is_file())
        additions = [CommitOperationAdd(path.relative_to(upload.folder).as_posix(), str(path)) for path in paths]
        if any(addition.path_in_repo == CARD for addition in additions) and not self._card_is_ours(api):
            logger.info("%s in %s was changed by hand and stays as it is", CARD, self.repository)
            additions = [addition for addition in additions if addition.path_in_repo != CARD]
        self._send_contents(api, upload, additions)
        self._note(f"{upload.title}, commit", 0)
        return str(api.create_commit(self.repository, additions, commit_message=upload.title).commit_url)

    def _send_contents(self, api: HfApi, upload: Upload, additions: list[CommitOperationAdd]) -> None:
        """Send large files one by one, in this thread; the commit, which comes after, carries the small ones."""
        total = sum(addition.upload_info.size for addition in additions)
        sent = 0
        for addition in additions:
            size = addition.upload_info.size
            self._note(
                f"{upload.title}, {addition.path_in_repo}, {sent / 1e6:.1f} of {total / 1e6:.1f} MB are sent", size
            )
            api.preupload_lfs_files(self.repository, [addition], free_memory=False)
            sent += size

    def _card_is_ours(self, api: HfApi) -> bool:
        """Whether the repository has no model card, or one as a run wrote it."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        with tempfile.TemporaryDirectory() as folder:
            try:
                card = Path(api.hf_hub_download(self.repository, CARD, cache_dir=folder))
            except LocalEntryNotFoundError:  # the hub could not be asked, which is no answer
                raise
            except EntryNotFoundError:
                return True
            return is_untouched(card.read_text(encoding="utf-8", errors="replace"))

    def _note(self, progress: str, size: int) -> None:
        self._progress = progress
        self._deadline = time.monotonic() + PATIENCE_SECONDS + size / SLOWEST_BYTES_PER_SECOND
