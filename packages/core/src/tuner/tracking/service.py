"""A tracker of accelerate's, as data."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Arguments = dict[str, Any]
Pictures = Mapping[str, list[Any]]
"""Pictures of PIL by name."""


@dataclass(frozen=True)
class Labels:
    """What a run is called, and where its files go.

    Attributes:
        project: Its project.
        run: Its name.
        folder: For files.
    """

    project: str
    run: str
    folder: Path


def _log_images(tracker: Any, pictures: Pictures, step: int) -> None:
    tracker.log_images(pictures, step=step)


def always() -> bool:
    """Answer for services that know no accounts."""
    return True


@dataclass(frozen=True)
class Service:
    """A tracker.

    Attributes:
        package: What is imported.
        install: What pip installs.
        arguments: Keyword arguments of accelerate's class.
        has_account: Whether somebody is logged in, or the service is told to stay offline. Does not use the network.
        login: How to log in, or stay offline.
        log_pictures: Logs pictures: accelerate's tracker, the pictures, the step.
    """

    package: str
    install: str
    arguments: Callable[[Labels], Arguments]
    has_account: Callable[[], bool] = always
    login: str = ""
    log_pictures: Callable[[Any, Pictures, int], None] = _log_images

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None


def is_off(variable: str) -> bool:
    """Whether a variable of the environment says no."""
    return os.environ.get(variable, "").strip().lower() in ("0", "false", "no", "off")


def is_on(variable: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on")
