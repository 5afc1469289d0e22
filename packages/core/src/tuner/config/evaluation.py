"""Evaluation on data that is not trained on."""

from __future__ import annotations

from typing import Literal

from tuner.config.settings import NOT_YET, Topic, setting

_NONE = f"{NOT_YET}: nothing is evaluated"


class EvaluationConfig(Topic):
    """Loss on data sets of dataset_type eval, and scores of validation pictures."""

    eval_steps_interval: int | None = setting(
        None, "Steps between evaluations; 0 for none.", unit="steps", ge=0, unread=_NONE
    )
    eval_epoch_interval: float | None = setting(
        None, "Epochs between evaluations, fractions included.", unit="epochs", gt=0, unread=_NONE
    )
    eval_loss_disable: bool = setting(False, "Leave out the loss on evaluation data.", unread=_NONE)
    num_eval_images: int = setting(
        4, "Pictures of each data set that are evaluated.", unit="pictures", ge=1, unread=_NONE
    )
    eval_timesteps: int = setting(28, "Noise levels at which the loss is taken.", unit="levels", ge=1, unread=_NONE)
    eval_dataset_pooling: bool = setting(False, "Report one loss over all evaluation data sets.", unread=_NONE)
    evaluation_type: Literal["none", "clip"] = setting("none", "Score of validation pictures.", unread=_NONE)
    pretrained_evaluation_model_name_or_path: str = setting(
        "openai/clip-vit-large-patch14-336",
        "Model that scores pictures.",
        needs={"evaluation_type": ("clip",)},
        unread=_NONE,
    )
