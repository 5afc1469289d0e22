"""Writes the page and the contact sheets while a run goes on. Whatever goes wrong here, the run goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.events import Evaluated, ImagesValidated, RunEnded, RunStarted, StepEnded
from tuner.tracking.gallery.files import write_whole
from tuner.tracking.gallery.page import render_page
from tuner.tracking.gallery.record import RunRecord
from tuner.tracking.gallery.rounds import Round, measure_round, write_rounds
from tuner.tracking.gallery.sheet import write_sheet

logger = logging.getLogger(__name__)

PAGE = "index.html"
"""File of the page in the output folder."""

INTERVAL = 15.0
"""Seconds at least between pages that are written only because steps were taken."""

SHARE = 100.0
"""Time between such pages in units of the time that writing one takes, so that it costs a run at most 1 %."""


def create(config: RunConfig) -> Gallery:
    """Take part in every run."""
    return Gallery()


class Gallery:
    """Keeps `index.html` and the contact sheets up to date.

    Args:
        clock: Seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = 0.0
        self._record: RunRecord | None = None
        self._reported = False
        # Decoding and scaling many pictures takes a while, during which the run needs not wait.
        self._worker = ThreadPoolExecutor(1, "contact sheets")

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Gather what an earlier part of the run left, and show it."""

        def start() -> None:
            self._record = RunRecord.begin(event)

        self._attempt(start)
        self._write_page()

    @hookimpl
    def step_ended(self, event: StepEnded) -> None:
        """Remember a logged step, and show it if the page is old enough."""
        record = self._record
        if record is None or not event.logged:
            return

        def add() -> None:
            numbers = {name: float(value) for name, value in event.metrics.items()}
            record.add_metrics(event.step, {"loss": event.loss.item(), "learning_rate": event.learning_rate, **numbers})

        self._attempt(add)
        if self._clock() >= self._due:
            self._write_page()

    @hookimpl
    def images_validated(self, event: ImagesValidated) -> None:
        """Show the pictures, and have their contact sheet drawn."""
        record = self._record
        if record is None:
            return

        def add() -> None:
            shown = measure_round(event, record.folder)
            record.add_round(shown)
            write_rounds(record.rounds.values(), record.folder)
            self._worker.submit(self._attempt, lambda: self._draw(shown, record))

        self._attempt(add)
        self._write_page()

    @hookimpl
    def evaluated(self, event: Evaluated) -> None:
        """Show an evaluation."""
        record = self._record
        if record is not None:
            self._attempt(lambda: record.add_evaluation(event))
            self._write_page()

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """Show how the run ended."""
        self._worker.shutdown()
        if self._record is not None:
            self._record.end(event)
            self._write_page()

    def _draw(self, shown: Round, record: RunRecord) -> None:
        write_sheet(shown, record.base_round(), record.folder)

    def _write_page(self) -> None:
        began, record = self._clock(), self._record
        if record is None:
            return

        def write() -> None:
            text = render_page(record.as_json(datetime.now().astimezone()))
            write_whole(record.folder / PAGE, lambda scratch: scratch.write_text(text, encoding="utf-8"))

        self._attempt(write)
        self._due = self._clock() + max(INTERVAL, SHARE * (self._clock() - began))

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do what a run does not depend on; the first failure is reported."""
        try:
            work()
        except Exception as error:
            if not self._reported:
                self._reported = True
                logger.warning("the page that shows the run is not up to date: %s: %s", type(error).__name__, error)
