"""Commands that read a configuration and compute: train."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tuner.cli.launching import launch_training, needs_launch, show_devices
from tuner.config.arguments import parse_settings
from tuner.config.loading import LoadedConfig, find_config, load_config

logger = logging.getLogger(__name__)


def train(arguments: Sequence[str]) -> int:
    """Train."""
    loaded = load(arguments)
    launch = loaded.config.launch
    show_devices(launch)
    if needs_launch(launch):
        return launch_training(launch, arguments)
    show_receipt(loaded)
    from tuner.training.processes import join_processes
    from tuner.training.run import train as run_training

    processes = join_processes()
    result = run_training(loaded)
    processes.leave()
    if processes.is_main:
        print(
            f"interrupted after step {result.step}; resume with the same command"
            if result.interrupted
            else f"done after {result.step} steps: {result.exported}"
        )
    return 130 if result.interrupted else 0


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
