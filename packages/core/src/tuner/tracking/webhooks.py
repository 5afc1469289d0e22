"""Webhooks: Discord, or any server that takes JSON, is told what the run does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.config.webhooks import Level, Webhook
from tuner.events import (
    CheckpointSaved,
    Evaluated,
    ImagesValidated,
    PreparationFailed,
    Previewed,
    RunEnded,
    RunStarted,
    StepEnded,
)
from tuner.tracking.delivery import LAST_WAIT, Delivery
from tuner.tracking.messages import Message
from tuner.tracking.summary import summarize

_ENDS: dict[str, tuple[Level, str]] = {
    "done": ("info", "is"),
    "interrupted": ("warning", "was"),
    "failed": ("critical", "has"),
}
"""Outcome of a run -> how important it is, and the verb for it."""


def create(config: RunConfig) -> Webhooks | None:
    """Take part where webhook_config names a webhook."""
    return Webhooks(config.webhooks) if config.webhooks else None


class Webhooks:
    """Turns events into messages. They are sent by a thread per webhook, which begins with the run.

    Args:
        webhooks: Where to.
        deliver: (webhook, label) -> what sends messages to it.
    """

    def __init__(self, webhooks: tuple[Webhook, ...], deliver: Callable[[Webhook, str], Delivery] = Delivery) -> None:
        self._webhooks = webhooks
        self._deliver = deliver
        self._deliveries: list[tuple[Webhook, Delivery]] = []
        self._last_step = 0
        self._folder: Path | None = None
        self._tells_steps = any(webhook.wants("debug") for webhook in webhooks)

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Begin to send."""
        self._begin()
        self._last_step, self._folder = event.last_step, event.output_dir
        name = event.output_dir.name
        text = f"{name}: training {event.facts.title} from step {event.first_step} to {event.last_step}"
        data = {"run": name, "first_step": event.first_step, "last_step": event.last_step, **event.origin}
        self._tell("run.started", "info", text, data)

    @hookimpl
    def step_ended(self, event: StepEnded) -> None:
        """Tell a logged step to those who want to know everything."""
        if not event.logged or not self._tells_steps:
            return
        loss = event.loss.item()
        metrics = {name: float(value) for name, value in event.metrics.items()}
        data = {"step": event.step, "loss": loss, "learning_rate": event.learning_rate, **metrics}
        text = f"step {event.step} of {self._last_step}: loss {loss:.4f}, learning rate {event.learning_rate:.3g}"
        self._tell("training.step", "debug", text, data)

    @hookimpl
    def images_validated(self, event: ImagesValidated) -> None:
        """Send the pictures, prompt by prompt."""
        for nickname, files in event.shown.items():
            prompt = event.prompts.get(nickname, "")
            text = f"step {event.step}, {event.label}, {nickname}: {prompt}"
            data = {"step": event.step, "label": event.label, "nickname": nickname, "prompt": prompt}
            self._tell("validation.images", "info", text, data, pictures=files)

    @hookimpl
    def previewed(self, event: Previewed) -> None:
        """Send the picture so far."""
        done = f"sampling step {event.sampling_step} of {event.sampling_steps}"
        data = {
            "step": event.step,
            "timestep": 1000 * event.sigma,
            "resolution": "x".join(map(str, event.picture.size)),
            "prompt": event.prompt,
            "nickname": event.nickname,
            "sampling_step": event.sampling_step,
            "sampling_steps": event.sampling_steps,
        }
        text = f"step {event.step}, {event.nickname}, {done}"
        self._tell("validation.image", "info", text, data, pictures=(event.picture,))

    @hookimpl
    def evaluated(self, event: Evaluated) -> None:
        """Send the values."""
        values = ", ".join(f"{name} {value:.5g}" for name, value in event.metrics.items())
        data = {"step": event.step, "label": event.label, "metrics": event.metrics, "curves": event.curves}
        self._tell("evaluation", "info", f"step {event.step}, {event.label}: {values}", data)

    @hookimpl
    def checkpoint_saved(self, event: CheckpointSaved) -> None:
        """Name the checkpoint."""
        name = event.folder.name
        self._tell("checkpoint.saved", "info", f"saved {name}", {"step": event.step, "checkpoint": name})

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """Say how it ended, and wait a little for what has not been sent."""
        at = f"at step {event.step} of {self._last_step}"
        summary = (self._folder and event.outcome != "failed" and summarize(self._folder)) or ""
        exported = event.exported.name if event.exported else None
        data = {"step": event.step, "last_step": self._last_step, "exported": exported, "summary": summary}
        self._tell_end(event.outcome, at, event.reason or summary, {**data, "reason": event.reason})

    @hookimpl
    def preparation_failed(self, event: PreparationFailed) -> None:
        """Say why there will be no run."""
        self._begin()
        name, reason = event.output_dir.name, event.reason
        self._tell_end(event.outcome, f"before its first step ({name})", reason, {"run": name, "reason": reason})

    def _begin(self) -> None:
        _quieten(self._webhooks)
        for number, webhook in enumerate(self._webhooks, 1):
            label = f"webhook {number} ({webhook.webhook_type})"
            self._deliveries.append((webhook, self._deliver(webhook, label)))

    def _tell_end(self, outcome: str, at: str, more: str, data: dict[str, Any]) -> None:
        level, verb = _ENDS[outcome]
        text = f"the run {verb} {outcome}, {at}"
        self._tell("run.ended", level, f"{text}: {more}" if more else text, {"outcome": outcome, **data})
        deadline = time.monotonic() + LAST_WAIT
        for _, delivery in self._deliveries:
            delivery.close(max(0.0, deadline - time.monotonic()))

    def _tell(self, kind: str, level: Level, text: str, data: dict[str, Any], pictures: tuple[Any, ...] = ()) -> None:
        message = Message(kind, level, text, data, pictures)
        for webhook, delivery in self._deliveries:
            if webhook.wants(level):
                delivery.put(message)


def _quieten(webhooks: tuple[Webhook, ...]) -> None:
    """Keep urllib3 from warning of every single request that ssl_no_verify asks for."""
    if any(webhook.ssl_no_verify for webhook in webhooks):
        import urllib3

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
