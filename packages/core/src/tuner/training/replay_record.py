"""The record of a step that gave NaN or infinite values: all that it takes to repeat it, and no path or secret."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tuner.caching.files import write_aside
from tuner.errors import NonFiniteError, TunerError
from tuner.training.batches import BatchSource
from tuner.training.guard import NonFiniteStepError, TakenStep
from tuner.training.identity import scrubbed_settings
from tuner.training.reduction import whole_step
from tuner.training.session import Session

_LIBRARIES = ("tuner-core", "torch", "diffusers", "transformers", "peft", "lycoris-lora", "accelerate")

Number = float | str
"""A number; as text where it is not finite, which JSON cannot hold."""


class SampleRecord(BaseModel):
    """One sample of a step: its name, sigma and loss."""

    model_config = ConfigDict(frozen=True)

    name: str
    sigma: float
    loss: Number


class ReplayRecord(BaseModel):
    """What `replay-STEP.json` holds.

    Attributes:
        step: Number of the step, counted from 1.
        seed: The run's seed.
        culprit: What was not finite: loss, gradient or weights.
        loss: The step's loss.
        samples: Its samples.
        identity: What must be the same for a run to be the same run.
        settings: The run's settings, paths reduced to their last part, secrets hidden.
        versions: Version of each library that computes.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    seed: int
    culprit: str
    loss: Number
    samples: tuple[SampleRecord, ...]
    identity: dict[str, str]
    settings: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Difference:
    """A setting or version that is not what it was when a record was written."""

    name: str
    recorded: Any
    current: Any

    def __str__(self) -> str:
        return f"{self.name} was {self.recorded!r} and is {self.current!r}"


def make_record(taken: TakenStep, culprit: str, session: Session, identity: dict[str, str]) -> ReplayRecord:
    """Describe a step; its losses are read from the device."""
    values = json.loads(json.dumps(scrubbed_settings(session.config, session.loaded.secrets), default=str))
    return ReplayRecord(
        step=taken.step,
        seed=session.seed,
        culprit=culprit,
        loss=_number(taken.loss.item()),
        samples=tuple(sample_records(taken)),
        identity=identity,
        settings=values,
        versions=_versions(session),
    )


def sample_records(taken: TakenStep) -> Iterator[SampleRecord]:
    """Describe the samples of a step."""
    sigmas = [sigma for batch in taken.sigmas for sigma in batch.tolist()]
    losses = [loss for batch in taken.losses for loss in batch.tolist()]
    for key, sigma, loss in zip(taken.keys, sigmas, losses, strict=True):
        yield SampleRecord(name=key, sigma=sigma, loss=_number(loss))


def write_record(error: NonFiniteStepError, session: Session, identity: dict[str, str]) -> Path:
    """Write `replay-STEP.json` into the output folder, over one that an earlier attempt left, and return it."""
    record = make_record(error.taken, error.culprit, session, identity)
    path = session.config.model.output_dir / f"replay-{record.step}.json"
    text = record.model_dump_json(indent=2) + "\n"
    write_aside(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def recorded(
    error: NonFiniteStepError, session: Session, source: BatchSource, identity: dict[str, str]
) -> NonFiniteError:
    """Write the replay record, and describe the step and what to do with the record.

    Where several processes share the step, all of them find it at the same time; it is told with the samples of all.
    """
    processes, taken = session.processes, error.taken
    if not processes.is_alone:
        batches = replace(source, rank=0, processes=1).step(taken.step - 1)
        error = error.of(whole_step(taken, batches, processes))
    if not processes.is_main:
        return NonFiniteError(str(error))
    try:
        advice = f"`tuner replay {write_record(error, session, identity)}` shows where it begins"
    except OSError as failure:  # the fault itself matters more
        advice = f"a replay record could not be written: {failure}"
    return NonFiniteError(f"{error}; {advice}")


def read_record(path: Path) -> ReplayRecord:
    """Read a record.

    Raises:
        TunerError: The file is not there or is no record.
    """
    try:
        return ReplayRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = f"{error.errors()[0]['msg']}" if isinstance(error, ValidationError) else str(error)
        raise TunerError(
            f"{path} is no replay record: {reason}\n    -> give a replay-STEP.json of a run's output folder"
        ) from error


def differences(recorded: ReplayRecord, current: ReplayRecord) -> Iterator[Difference]:
    """Yield the settings and versions that differ."""
    for before, now in ((recorded.settings, current.settings), (recorded.versions, current.versions)):
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                yield Difference(name, before.get(name), now.get(name))


def _number(value: float) -> Number:
    return value if math.isfinite(value) else str(value)


def _versions(session: Session) -> dict[str, str]:
    entry = session.loaded.family.entry
    found = {name: version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **found, entry.package: entry.version}
