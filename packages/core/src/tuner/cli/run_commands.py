"""Commands that read a configuration: train, check, cache."""

from __future__ import annotations

import logging
from contextlib import closing

from tuner.cli.overrides import SettingsRequest
from tuner.config.loading import LoadedConfig, find_config, load_config
from tuner.errors import DatasetError

logger = logging.getLogger(__name__)


def train(request: SettingsRequest) -> int:
    """Train."""
    loaded = _load(request)
    _show_receipt(loaded)
    from tuner.training.run import train as run_training

    result = run_training(loaded)
    if result.interrupted:
        print(f"interrupted after step {result.step}; resume with the same command")
        return 130
    print(f"done after {result.step} steps: {result.exported}")
    return 0


def check(request: SettingsRequest) -> int:
    """Check configuration and data sets; show the plan and the receipt."""
    loaded = _load(request)
    config, facts = loaded.config, loaded.family.facts
    print(f"configuration: {', '.join(map(str, loaded.files))}")
    print(f"family:        {facts.title}, {loaded.family.entry.package} {loaded.family.entry.version}")
    from tuner.data.report import format_plan
    from tuner.training.data import open_index, plan_data, side_limit
    from tuner.training.sources import resolve_source

    limit = side_limit(resolve_source(config.model, facts), facts, download=False)
    with closing(open_index(config)) as index:
        print(format_plan(plan_data(config, facts, config.model.seed, index, side_limit=limit)))
    _show_receipt(loaded)
    print("everything that can be checked without loading a model is in order")
    return 0


def cache(request: SettingsRequest) -> int:
    """Fill the caches."""
    loaded = _load(request)
    _show_receipt(loaded)
    from tuner.training.data import prepare_data
    from tuner.training.session import open_session

    data = prepare_data(open_session(loaded))
    if not data.plan.buckets:
        raise DatasetError("nothing is left to train on")
    print("all caches are full")
    return 0


def _load(request: SettingsRequest) -> LoadedConfig:
    return load_config(find_config(request.config), request.overrides)


def _show_receipt(loaded: LoadedConfig) -> None:
    for line in loaded.warnings:
        logger.warning("%s", line)
    for key, reason in loaded.unread.items():
        logger.warning("%s has no effect in this run: %s", key, reason)
