"""Evaluation on data that is not trained on."""

from __future__ import annotations

from typing import Literal

from tuner.config.settings import Topic, setting

_LOSS = {"eval_loss_disable": (False,)}


class EvaluationConfig(Topic):
    """Loss on data sets of dataset_type eval, and scores of validation pictures."""

    eval_steps_interval: int | None = setting(
        None, "Steps between evaluations; 0 for none.", unit="steps", ge=0, needs=_LOSS
    )
    eval_epoch_interval: float | None = setting(
        None, "Epochs between evaluations, fractions included.", unit="epochs", gt=0, needs=_LOSS
    )
    eval_loss_disable: bool = setting(False, "Leave out the loss on evaluation data.")
    num_eval_images: int = setting(
        4,
        "Pictures of each data set that are evaluated: the first by name.",
        unit="pictures",
        ge=1,
        needs=_LOSS,
    )
    eval_timesteps: int = setting(
        28,
        "Noise levels at which the loss is taken: middles of so many equal parts of 0 to 1, shifted as in training.",
        unit="levels",
        ge=1,
        needs=_LOSS,
    )
    eval_dataset_pooling: bool = setting(
        False, "Also report one loss over the pictures of all evaluation data sets.", needs=_LOSS
    )
    evaluation_type: Literal["none", "clip"] = setting(
        "none", "Score of validation pictures: how well they fit their prompts, as CLIP sees it."
    )
    pretrained_evaluation_model_name_or_path: str = setting(
        "openai/clip-vit-large-patch14-336",
        "CLIP model that scores pictures: a folder, or a repository of the hub.",
        needs={"evaluation_type": ("clip",)},
    )

    @property
    def has_interval(self) -> bool:
        """Whether an interval asks for evaluations."""
        return bool(self.eval_steps_interval or self.eval_epoch_interval)
