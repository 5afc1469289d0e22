"""Which settings of evaluation nothing will read in a run, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tuner.config.run import RunConfig

_LOSS = (
    "eval_steps_interval",
    "eval_epoch_interval",
    "eval_loss_disable",
    "num_eval_images",
    "eval_timesteps",
    "eval_dataset_pooling",
)
_TRAINED_ONLY = (
    "conditioning_data",
    "is_regularisation_data",
    "probability",
    "repeats",
    "train_batch_size",
    "vae_cache_clear_each_epoch",
)
"""Keys of a data set that matter for training alone."""


def evaluation_unread(config: RunConfig, given: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (setting, reason); `given` names the settings that somebody gave."""
    evaluation = config.evaluation
    asked = [key for key in _LOSS if key in given and getattr(evaluation, key)]
    names = ", ".join(dataset.id for dataset in config.eval_datasets)
    if not names:
        yield from ((key, "no data set has dataset_type eval") for key in asked)
    elif evaluation.eval_loss_disable:
        yield "dataset_type eval", f"eval_loss_disable is set: {names} is checked, but not evaluated"
    elif not evaluation.has_interval:
        reason = "neither eval_steps_interval nor eval_epoch_interval is given"
        yield "dataset_type eval", f"{reason}: {names} is checked, but not evaluated"
        yield from ((key, reason) for key in asked)
    validation = config.validation
    prompts = [validation.validation_prompt, *config.prompts.values()]
    if evaluation.evaluation_type != "none" and not (validation.validation_step_interval and any(prompts)):
        yield "evaluation_type", "no validation pictures are made of a prompt"
    for dataset in config.eval_datasets:
        for key in _TRAINED_ONLY:
            default = type(dataset).model_fields[key].get_default()
            if key in dataset.model_fields_set and getattr(dataset, key) != default:
                yield f"{dataset.id}: {key}", "it matters for training alone, and the data set is evaluated with"
