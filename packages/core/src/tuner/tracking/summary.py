"""The end of a run in one paragraph: what its evaluations say, shown and written to `summary.txt`."""

from __future__ import annotations

import logging
import re
import textwrap
from pathlib import Path

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.events import RunEnded, RunStarted
from tuner.tracking.journal import read_evaluations, read_losses
from tuner.tracking.verdict import describe_run

logger = logging.getLogger(__name__)

SUMMARY_FILE = "summary.txt"


def create(config: RunConfig) -> Summary:
    """Take part in every run."""
    return Summary()


class Summary:
    """Sums up the evaluations of a run, those before it was interrupted included."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Remember the folder."""
        self._folder = event.output_dir

    @hookimpl(trylast=True)
    def run_ended(self, event: RunEnded) -> None:
        """Show and write the paragraph, where there was an evaluation; the journal has closed its files by now."""
        if self._folder is None or event.outcome == "failed":
            return
        text = summarize(self._folder)
        if text is None:
            return
        logger.info("%s", text)
        scratch = self._folder / f"{SUMMARY_FILE}.tmp"
        try:
            scratch.write_text(textwrap.fill(text, 100, break_on_hyphens=False) + "\n", encoding="utf-8")
            scratch.replace(self._folder / SUMMARY_FILE)
        except OSError as error:  # the result is written, and that is what counts
            logger.warning("%s was not written: %s", SUMMARY_FILE, error)
        finally:
            scratch.unlink(missing_ok=True)


def summarize(folder: Path) -> str | None:
    """Return the paragraph of the run in an output folder, None where nothing was evaluated or it cannot be read."""
    try:
        return describe_run(read_evaluations(folder), read_losses(folder), _checkpoints(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:  # files that somebody has changed
        logger.warning("the evaluations cannot be summed up: %s: %s", type(error).__name__, error)
        return None


def _checkpoints(folder: Path) -> list[int]:
    found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.iterdir())
    return [int(match[1]) for match in found if match]
