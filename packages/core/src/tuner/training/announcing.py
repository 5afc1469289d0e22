"""What extensions are told when a run begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tuner.config.settings import without_secrets
from tuner.data.plan import Plan
from tuner.events import RunStarted
from tuner.training.identity import scrubbed_settings
from tuner.training.session import Session


def started_event(session: Session, plan: Plan, first: int, last: int, origin: Mapping[str, str]) -> RunStarted:
    """Describe a run that is about to take its first step.

    Args:
        session: Its surroundings.
        plan: What it trains on.
        first: Steps taken before.
        last: Steps taken when it is done.
        origin: What exported files record.
    """
    secrets = session.loaded.secrets
    samples: Counter[str] = Counter()
    for bucket in plan.buckets:
        samples[bucket.dataset] += len(bucket.samples)
    return RunStarted(
        session.config,
        first,
        last,
        session.config.model.output_dir,
        session.facts,
        origin,
        settings=scrubbed_settings(session.config, secrets),
        samples=dict(samples),
        hide=lambda text: without_secrets(text, secrets),
    )
