"""Rings the terminal's bell when a run is over."""

from __future__ import annotations

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.events import RunEnded


def create(config: RunConfig) -> Bell | None:
    """Take part in long runs alone."""
    return Bell() if config.optimisation.max_train_steps >= 100 else None


class Bell:
    """Rings when the run is over."""

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """Ring, and say how it ended."""
        print(f"\arun {event.outcome} at step {event.step}")
