"""Trackers."""

from __future__ import annotations

from typing import Literal

from tuner.config.settings import NOT_YET, Topic, setting


class TrackingConfig(Topic):
    """Where the run's numbers go besides the screen and its own files."""

    report_to: Literal["none", "tensorboard", "wandb", "comet_ml", "swanlab", "all"] = setting(
        "none",
        "Tracker of losses and pictures.",
        unread={
            **dict.fromkeys(("wandb", "comet_ml", "swanlab"), f"{NOT_YET}: only tensorboard is"),
            "all": f"{NOT_YET} but for tensorboard",
        },
    )
    tracker_project_name: str = setting(
        "simpletuner",
        "Project of the run in the tracker.",
        needs={"report_to": (True,)},
        unread="TensorBoard knows runs, but no projects",
    )
    tracker_run_name: str = setting(
        "simpletuner-testing", "Name of the run in the tracker.", needs={"report_to": ("tensorboard", "all")}
    )
    log_interval: int = setting(
        10, "Steps between reports of the loss; reading it makes an accelerator wait.", unit="steps", ge=1
    )
