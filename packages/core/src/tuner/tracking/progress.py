"""The progress bar of a run: rate, loss and time left."""

from __future__ import annotations

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.events import RunEnded, RunStarted, StepEnded
from tuner.tracking.bars import Progress


def create(config: RunConfig) -> ProgressBar:
    """Take part in every run."""
    return ProgressBar()


class ProgressBar:
    """Shows steps as they are taken. The loss is read at log intervals alone."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._note = ""

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Open the bar."""
        self._progress = Progress(event.last_step, "training", "step", initial=event.first_step)

    @hookimpl
    def step_ended(self, event: StepEnded) -> None:
        """Advance the bar."""
        if self._progress is None:
            return
        if event.logged:
            self._note = f"loss {event.loss.item():.4f}, learning rate {event.learning_rate:.3g}"
        self._progress.advance_to(event.step, self._note)

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """Close the bar."""
        if self._progress is not None:
            self._progress.close()
