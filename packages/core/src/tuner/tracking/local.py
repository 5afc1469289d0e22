"""Trackers that write on this machine, unless their own settings name a server. Nothing here imports one before use."""

from __future__ import annotations

import os
from typing import Any

from tuner.config.prompts import safe_name
from tuner.tracking.service import Arguments, Labels, Pictures, Service


def _aim(labels: Labels) -> Arguments:
    return {
        "run_name": labels.run,
        "logging_dir": str(labels.folder),
        "experiment": labels.project,
        "system_tracking_interval": None,
        "log_system_params": False,
        "capture_terminal_logs": False,
    }


def _aim_pictures(tracker: Any, pictures: Pictures, step: int) -> None:
    import aim

    for name, group in pictures.items():
        tracker.tracker.track([aim.Image(picture) for picture in group], name=name, step=step)


def _mlflow(labels: Labels) -> Arguments:
    import mlflow
    from mlflow.utils import mlflow_tags as known

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{labels.folder.resolve() / 'mlflow.db'}")
        artifacts = (labels.folder / "mlflow").resolve().as_uri()
    else:
        artifacts = None  # the server's own
    # Else they hold the path of this program, the account's name, and what git knows of a folder around it.
    tags = {known.MLFLOW_SOURCE_NAME: "tuner", known.MLFLOW_USER: "tuner"}
    tags |= dict.fromkeys((known.MLFLOW_GIT_COMMIT, known.MLFLOW_GIT_BRANCH, known.MLFLOW_GIT_REPO_URL), "")
    return {"experiment_name": labels.project, "run_name": labels.run, "logging_dir": artifacts, "tags": tags}


def _mlflow_pictures(tracker: Any, pictures: Pictures, step: int) -> None:
    import mlflow

    for name, group in pictures.items():
        for number, picture in enumerate(group):
            mlflow.log_image(picture, key=f"{name}/{number}", step=step)


def _dvclive(labels: Labels) -> Arguments:
    # Unless it resumes, it empties its folder of an earlier run. What is not asked for stays off: experiments are
    # commits in the repository around it.
    return {
        "run_name": labels.project,
        "dir": str(labels.folder / "dvclive" / safe_name(labels.run)),
        "resume": True,
        "report": None,
        "save_dvc_exp": False,
        "dvcyaml": False,
        "monitor_system": False,
    }


def _dvclive_pictures(tracker: Any, pictures: Pictures, step: int) -> None:
    for name, group in pictures.items():
        for number, picture in enumerate(group):
            tracker.tracker.log_image(f"{name}/{number}/{step}.png", picture)


def _trackio(labels: Labels) -> Arguments:
    return {
        "run_name": labels.project,
        "name": labels.run,
        "embed": False,
        "auto_log_gpu": False,
        "auto_log_cpu": False,
    }


def _trackio_account() -> bool:
    from huggingface_hub import get_token

    return not os.environ.get("TRACKIO_SPACE_ID") or bool(get_token())


def _trackio_pictures(tracker: Any, pictures: Pictures, step: int) -> None:
    import trackio

    for name, group in pictures.items():
        tracker.log({f"{name}/{number}": trackio.Image(picture) for number, picture in enumerate(group)}, step=step)


LOCAL = {
    "aim": Service("aim", "'aim>=3.29'", _aim, log_pictures=_aim_pictures),
    "mlflow": Service("mlflow", "'mlflow>=3'", _mlflow, log_pictures=_mlflow_pictures),
    "dvclive": Service("dvclive", "'dvclive>=3.49'", _dvclive, log_pictures=_dvclive_pictures),
    "trackio": Service(
        "trackio",
        "'trackio>=0.40'",
        _trackio,
        _trackio_account,
        "`hf auth login`, or unset TRACKIO_SPACE_ID",
        _trackio_pictures,
    ),
}
"""By accelerate's name."""
