"""Trackers."""

from __future__ import annotations

from typing import Literal, get_args

from tuner.config.settings import Topic, setting

Tracker = Literal[
    "none", "tensorboard", "wandb", "comet_ml", "swanlab", "clearml", "aim", "mlflow", "dvclive", "trackio", "all"
]
"""accelerate's trackers, by its names."""


class TrackingConfig(Topic):
    """Where the run's numbers go besides the screen and its own files."""

    report_to: Tracker = setting("none", "Tracker of losses, pictures and evaluations; all that are installed.")
    tracker_project_name: str = setting(
        "simpletuner",
        "Project of the run in the tracker; TensorBoard knows runs, but no projects.",
        needs={"report_to": tuple(name for name in get_args(Tracker) if name not in ("none", "tensorboard"))},
    )
    tracker_run_name: str = setting(
        "simpletuner-testing", "Name of the run in the tracker.", needs={"report_to": (True,)}
    )
    log_interval: int = setting(
        10, "Steps between reports of the loss; reading it makes an accelerator wait.", unit="steps", ge=1
    )
