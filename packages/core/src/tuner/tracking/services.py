"""Trackers that are services: how each is named, started, and known to be usable. Nothing here imports one."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Service:
    """A tracker.

    Attributes:
        package: What is imported.
        install: What pip installs.
        options: (name of the run, folder for files) -> further arguments of accelerate's tracker.
        has_account: Whether somebody is logged in, or the service is told to stay offline. Does not use the network.
        login: How to log in, or stay offline.
    """

    package: str
    install: str
    options: Callable[[str, Path], dict[str, Any]]
    has_account: Callable[[], bool]
    login: str

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None


def _wandb_options(run: str, folder: Path) -> dict[str, Any]:
    import wandb

    # What it finds out by itself holds the command line, and so maybe secrets, and paths of this machine.
    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_save_requirements=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    return {"name": run, "dir": str(folder), "settings": settings}


def _wandb_account() -> bool:
    import wandb

    if wandb.setup().settings.mode != "online":
        return True
    return wandb.login(prompt=False, verify=False)


def _comet_options(run: str, folder: Path) -> dict[str, Any]:
    import comet_ml

    # As above: neither code nor the command line nor the folder's repository.
    experiment = comet_ml.ExperimentConfig(
        name=run,
        offline_directory=str(folder),
        log_code=False,
        log_git_metadata=False,
        log_git_patch=False,
        log_env_details=False,
        auto_output_logging=False,
        parse_args=False,
        display_summary_level=0,
    )
    return {"experiment_config": experiment}


def _comet_account() -> bool:
    import comet_ml

    return _is_off("COMET_START_ONLINE") or bool(comet_ml.get_config("comet.api_key"))


def _swanlab_options(run: str, folder: Path) -> dict[str, Any]:
    import swanlab

    settings = swanlab.Settings(
        interactive=False,
        probe=swanlab.Settings.Probe(runtime=False, requirements=False, git=False, swanlab=False),
        terminal=swanlab.Settings.Terminal(proxy_type="none"),
    )
    return {"name": run, "log_dir": str(folder / "swanlog"), "settings": settings}


def _swanlab_account() -> bool:
    import swanlab

    settings = swanlab.Settings()
    return settings.mode != "online" or bool(settings.api_key)


def _is_off(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in ("0", "false", "no", "off")


SERVICES = {
    "wandb": Service(
        "wandb", "'tuner-core[wandb]'", _wandb_options, _wandb_account, "`wandb login`, or set WANDB_MODE=offline"
    ),
    "comet_ml": Service(
        "comet_ml", "'comet_ml>=3.58'", _comet_options, _comet_account, "`comet login`, or set COMET_START_ONLINE=0"
    ),
    "swanlab": Service(
        "swanlab", "'swanlab>=0.10'", _swanlab_options, _swanlab_account, "`swanlab login`, or set SWANLAB_MODE=offline"
    ),
}
"""By the value of report_to, which is accelerate's name too."""
