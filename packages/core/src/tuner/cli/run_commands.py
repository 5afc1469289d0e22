"""Commands that read a configuration and compute: train."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tuner.config.arguments import parse_settings
from tuner.config.loading import LoadedConfig, find_config, load_config

logger = logging.getLogger(__name__)


def train(arguments: Sequence[str]) -> int:
    """Train."""
    loaded = load(arguments)
    show_receipt(loaded)
    from tuner.training.run import train as run_training

    result = run_training(loaded)
    if result.interrupted:
        print(f"interrupted after step {result.step}; resume with the same command")
        return 130
    print(f"done after {result.step} steps: {result.exported}")
    return 0


def load(arguments: Sequence[str]) -> LoadedConfig:
    """Read the configuration that the arguments name."""
    request = parse_settings(arguments)
    return load_config(find_config(request.config, request.environment), request.overrides)


def show_receipt(loaded: LoadedConfig) -> None:
    """Warn of settings that nothing reads."""
    for line in loaded.warnings:
        logger.warning("%s", line)
    for key, reason in loaded.unread.items():
        logger.warning("%s has no effect in this run: %s", key, reason)
