"""Trackers with a server and accounts. Each can stay offline. Nothing here imports one before it is used.

What they find out by themselves holds the command line, and so maybe secrets, code, and paths of this machine: it is
turned off.
"""

from __future__ import annotations

import os
from typing import Any

from tuner.tracking.service import Arguments, Labels, Pictures, Service, is_off, is_on


def _wandb(labels: Labels) -> Arguments:
    import wandb

    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_save_requirements=False,
    )
    return {"run_name": labels.project, "name": labels.run, "dir": str(labels.folder), "settings": settings}


def _wandb_account() -> bool:
    import wandb

    if wandb.setup().settings.mode != "online":
        return True
    return wandb.login(prompt=False, verify=False)


def _comet(labels: Labels) -> Arguments:
    import comet_ml

    experiment = comet_ml.ExperimentConfig(
        name=labels.run,
        offline_directory=str(labels.folder),
        log_code=False,
        log_git_metadata=False,
        log_git_patch=False,
        log_env_details=False,
        auto_output_logging=False,
        parse_args=False,
        display_summary_level=0,
    )
    return {"run_name": labels.project, "experiment_config": experiment}


def _comet_account() -> bool:
    import comet_ml

    return is_off("COMET_START_ONLINE") or bool(comet_ml.get_config("comet.api_key"))


def _comet_pictures(tracker: Any, pictures: Pictures, step: int) -> None:
    for name, group in pictures.items():
        for number, picture in enumerate(group):
            tracker.tracker.log_image(picture, name=f"{name}/{number}", step=step)


def _swanlab(labels: Labels) -> Arguments:
    import swanlab

    settings = swanlab.Settings(
        interactive=False,
        probe=swanlab.Settings.Probe(runtime=False, requirements=False, git=False, swanlab=False),
        terminal=swanlab.Settings.Terminal(proxy_type="none"),
    )
    return {
        "run_name": labels.project,
        "name": labels.run,
        "log_dir": str(labels.folder / "swanlog"),
        "settings": settings,
    }


def _swanlab_account() -> bool:
    import swanlab

    settings = swanlab.Settings()
    return settings.mode != "online" or bool(settings.api_key)


def _clearml(labels: Labels) -> Arguments:
    return {
        "project_name": labels.project,
        "task_name": labels.run,
        "reuse_last_task_id": False,
        "auto_connect_arg_parser": False,
        "auto_connect_frameworks": {"detect_repository": False},
        "auto_resource_monitoring": False,
        "auto_connect_streams": False,
    }


def _clearml_pictures(tracker: Any, pictures: Pictures, step: int) -> None:
    report = tracker.tracker.get_logger().report_image
    for name, group in pictures.items():
        for number, picture in enumerate(group):
            report(title=name, series=str(number), iteration=step, image=picture)


def _clearml_account() -> bool:
    from clearml.config import config_obj

    if is_on("CLEARML_OFFLINE_MODE") or os.environ.get("CLEARML_AUTH_TOKEN"):
        return True
    names = ("access_key", "secret_key")
    return all(
        os.environ.get(f"CLEARML_API_{name.upper()}") or config_obj.get(f"api.credentials.{name}", None)
        for name in names
    )


HOSTED = {
    "wandb": Service(
        "wandb", "'tuner-core[wandb]'", _wandb, _wandb_account, "`wandb login`, or set WANDB_MODE=offline"
    ),
    "comet_ml": Service(
        "comet_ml",
        "'comet_ml>=3.58'",
        _comet,
        _comet_account,
        "`comet login`, or set COMET_START_ONLINE=0",
        _comet_pictures,
    ),
    "swanlab": Service(
        "swanlab", "'swanlab>=0.10'", _swanlab, _swanlab_account, "`swanlab login`, or set SWANLAB_MODE=offline"
    ),
    "clearml": Service(
        "clearml",
        "'clearml>=2.1'",
        _clearml,
        _clearml_account,
        "`clearml-init`, or set CLEARML_OFFLINE_MODE=1",
        _clearml_pictures,
    ),
}
"""By accelerate's name."""
