"""What extensions are told when a run begins, and when it does not come to that."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from tuner.config.loading import LoadedConfig
from tuner.config.settings import without_secrets
from tuner.data.plan import Plan
from tuner.errors import ConfigError, TunerError
from tuner.events import PreparationFailed, RunStarted
from tuner.plugins import create_extensions, create_manager
from tuner.tracking.gallery.settings import prose_without_paths
from tuner.training.identity import scrubbed_settings
from tuner.training.processes import Processes
from tuner.training.session import Session

logger = logging.getLogger(__name__)


@contextmanager
def telling_of_failure(loaded: LoadedConfig, processes: Processes) -> Iterator[None]:
    """Tell the extensions when the preparations inside the block fail.

    The run's own extensions may not exist by then, so these are made for the purpose.
    """
    try:
        yield
    except BaseException as error:
        if processes.is_main:
            _tell_of_failure(loaded, error)
        raise


def _tell_of_failure(loaded: LoadedConfig, error: BaseException) -> None:
    try:
        extensions = create_extensions(loaded.config)
    except TunerError:  # one of them is why the run cannot begin
        return
    is_interrupted = isinstance(error, KeyboardInterrupt)
    event = PreparationFailed(
        loaded.config.model.output_dir,
        "interrupted" if is_interrupted else "failed",
        "" if is_interrupted else reason_of(error, loaded.secrets),
    )
    try:
        create_manager(loaded.family, extensions).hook.preparation_failed(event=event)
    except Exception as failure:  # what went wrong before is what counts
        logger.warning("not every extension could be told: %s: %s", type(failure).__name__, failure)


def reason_of(error: BaseException, secrets: Collection[str]) -> str:
    """Return in a line why a run failed, without paths and secrets."""
    if isinstance(error, ConfigError):
        lines = [str(problem).splitlines()[0] for problem in error.problems]
    else:
        lines = str(error).splitlines()[:1]
    text = "; ".join(lines)
    if not isinstance(error, TunerError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return prose_without_paths(without_secrets(text, secrets))


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
