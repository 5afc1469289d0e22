"""What makes a resumed run the same run, and what a checkpoint records of its settings."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path, PureWindowsPath
from typing import Any, get_args

import tuner
from tuner.caching.files import write_aside
from tuner.config.keys import all_settings
from tuner.config.loading import LoadedConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.receipt import RECEIPT_FILE, scrubbed, settings_receipt
from tuner.config.run import RunConfig
from tuner.config.storage import StoredPart
from tuner.data.plan import Plan
from tuner.errors import CheckpointError
from tuner.optim.schedules import Schedule
from tuner.provenance import Provenance
from tuner.training.session import Session

logger = logging.getLogger(__name__)


def run_identity(session: Session, plan: Plan, schedule: Schedule) -> dict[str, str]:
    """Name what must be the same for a resumed run to be the same run."""
    config = session.config
    accumulation = config.optimisation.gradient_accumulation_steps * config.launch.num_processes
    kind = config.model.model_type if config.model.model_type == "full" else config.adapter.lora_type
    return {
        "family": session.facts.name,
        "kind": kind,
        "batch": f"{config.optimisation.train_batch_size} x {accumulation}",
        "precision": "; ".join([config.precision.mixed_precision, *map(_storage, session.stored)]),
        "optimizer": _optimizer_identity(config.optimisation),
        "schedule": schedule.identity(),
        "data": plan.fingerprint(),
    }


def is_unchanged(state: Mapping[str, Any], session: Session, identity: Mapping[str, str]) -> bool:
    """Whether the run that wrote a checkpoint's training state had the settings and the data of this one."""
    settings = scrubbed_settings(session.config, session.loaded.secrets)
    return state["identity"] == identity and state["settings"] == settings


def _optimizer_identity(optimisation: OptimisationConfig) -> str:
    arguments = optimisation.optimizer_arguments
    written = f" {json.dumps(arguments, sort_keys=True)}" if arguments else ""
    released = ", gradients released" if optimisation.releases_gradients else ""
    return f"{optimisation.optimizer}{written}{released}"


def _storage(part: StoredPart) -> str:
    return f"{part.folder} {part.scheme.name}"


_MENDABLE = {"batch", "data", "schedule"}
"""Differences after which training can go on, though not as the same run."""


def allows_changes(config: RunConfig) -> bool:
    """Whether somebody says that a run may go on with other data or batches than it began with."""
    return config.model.i_know_what_i_am_doing or os.environ.get("SIMPLETUNER_ALLOW_MODIFYING_BSZ") == "1"


def check_identity(saved: dict[str, str], current: dict[str, str], allow: bool) -> None:
    """Compare the run that wrote a checkpoint with this one.

    Raises:
        CheckpointError: They differ in something that training cannot go on after, or that `allow` does not cover.
    """
    for name, value in current.items():
        if saved.get(name, "") == value:
            continue
        change = f"{name} was {saved.get(name)!r} when the checkpoint was written and is {value!r} now"
        if name not in _MENDABLE:
            raise CheckpointError(f"{change}\n    -> set it back, or start anew in another output_dir")
        if not allow:
            raise CheckpointError(
                f"{change}: the run would not continue as it began\n"
                "    -> set it back, or set i_know_what_i_am_doing to true to go on all the same"
            )
        logger.warning("%s; going on, as i_know_what_i_am_doing says", change)


def scrubbed_settings(config: RunConfig, secrets: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings as they are recorded: without secrets, paths reduced to their last part."""
    flat = {key: scrubbed(key, value, secrets) for key, value in config.flat().items()}
    return {key: value if key in _PROSE else _without_path(value) for key, value in flat.items()}


_PROSE = ("instance_prompt", "validation_prompt", "validation_negative_prompt")
"""Settings that are text for people, in which a slash begins no path; lists of texts are, too."""


def _without_path(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_path(item) for key, item in value.items()}
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return PureWindowsPath(value).name  # knows both kinds of slash
    return value


def export_metadata(session: Session, step: int, data_fingerprint: str) -> dict[str, str]:
    """Return what an exported file records about its origin: no path and no secret."""
    entry, base = session.loaded.family.entry, session.base
    return Provenance(
        family=session.facts.name,
        family_package=f"{entry.package} {entry.version}",
        tuner_version=tuner.__version__,
        base_model=base.name,
        base_revision=base.revision,
        base_fingerprint=base.fingerprint,
        data_fingerprint=data_fingerprint,
        seed=session.seed,
        step=step,
        weights="live",
        settings=_published_settings(session),
    ).texts()


def _published_settings(session: Session) -> dict[str, Any]:
    """Return the settings that decide on the result; where a run's files lie does not."""
    places = {key for _, key, field in all_settings() if Path in (field.annotation, *get_args(field.annotation))}
    settings = scrubbed_settings(session.config, session.loaded.secrets)
    return {key: value for key, value in settings.items() if key not in places | {"resume_from_checkpoint"}}


def write_receipt(loaded: LoadedConfig, folder: Path) -> None:
    """Write `settings_receipt.json`: every setting with value and origin, and why some are not read; no secrets."""
    rows = settings_receipt(loaded.config, loaded.given, loaded.family.facts, loaded.unread, loaded.secrets)
    text = json.dumps([asdict(row) for row in rows], indent=2, default=str)
    write_aside(folder / RECEIPT_FILE, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
