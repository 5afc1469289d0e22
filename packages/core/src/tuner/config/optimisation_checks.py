"""Rules about optimizer, learning rate and gradients."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.config.optimisation import OptimisationConfig
from tuner.config.optimizer_options import try_options
from tuner.config.optimizers import OPTIMIZERS
from tuner.config.precision import PrecisionConfig
from tuner.errors import Problem


def optimisation_conflicts(optimisation: OptimisationConfig, precision: PrecisionConfig | None) -> Iterator[Problem]:
    """Check what only several settings together can violate, and the optimizer's arguments."""
    if (optimisation.max_train_steps > 0) == (optimisation.num_train_epochs > 0):
        yield Problem(
            f"max_train_steps is {optimisation.max_train_steps} and num_train_epochs is "
            f"{optimisation.num_train_epochs}: exactly one must be above 0",
            key="max_train_steps",
            remedy="give the length of the run with one of them, and set the other to 0",
        )
    if precision and precision.mixed_precision == "no" and optimisation.optimizer == "adamw_bf16":
        yield Problem(
            "adamw_bf16 trains bf16 weights, but mixed_precision is no",
            key="optimizer",
            remedy="use optimi-adamw, or mixed_precision bf16",
        )
    if optimisation.lr_scheduler == "polynomial" and optimisation.lr_end >= optimisation.learning_rate:
        end, peak = optimisation.lr_end, optimisation.learning_rate
        yield Problem(
            f"{end:g} is not below learning_rate ({peak:g}), from where a polynomial schedule falls to it",
            key="lr_end",
            remedy="make it smaller",
        )
    yield from _optimizer(optimisation)
    if optimisation.releases_gradients:
        yield from _release(optimisation)


def optimisation_warnings(optimisation: OptimisationConfig, precision: PrecisionConfig) -> Iterator[str]:
    """Name settings that are allowed but surprise people."""
    spec, name, rate = optimisation.optimizer_spec, optimisation.optimizer, optimisation.learning_rate
    if optimisation.lr_scheduler == "constant" and optimisation.lr_warmup_steps:
        yield f"lr_scheduler constant with lr_warmup_steps {optimisation.lr_warmup_steps} runs as constant_with_warmup"
    if optimisation.lr_scheduler == "cosine_with_restarts" and optimisation.lr_num_cycles == 1:
        yield "lr_scheduler cosine_with_restarts with lr_num_cycles 1 never restarts: it runs as cosine"
    if spec.learning_rate and rate > spec.learning_rate:
        yield (
            f"learning_rate {rate:g} is above {spec.learning_rate:g}: {name} finds the size of its steps itself and "
            "multiplies it with this"
        )
    if precision.mixed_precision == "bf16" and spec.rounding is None:
        better = ", ".join(other for other, item in OPTIMIZERS.items() if item.rounding)
        yield (
            f"optimizer {name} rounds weights to bf16 after each step: changes below 1/256 of a weight are lost "
            f"(not so with {better})"
        )


def _optimizer(optimisation: OptimisationConfig) -> Iterator[Problem]:
    spec, name = optimisation.optimizer_spec, optimisation.optimizer
    if spec.is_missing:
        wanted = f"'tuner-core[{spec.extra}]'" if spec.extra else spec.package
        yield Problem(
            f"{name!r} needs {spec.package}, which is not installed", key="optimizer", remedy=f"pip install {wanted}"
        )
        return
    given = optimisation.optimizer_config
    is_named = name in OPTIMIZERS
    if is_named and not given:
        return
    try:
        try_options(spec, given if isinstance(given, dict) else {})
    except ValueError as error:
        yield Problem(str(error), key="optimizer_config" if is_named or given else "optimizer")


def _release(optimisation: OptimisationConfig) -> Iterator[Problem]:
    key = "optimizer_release_gradients" if optimisation.optimizer_release_gradients else "optimizer_config"
    spec, count = optimisation.optimizer_spec, optimisation.gradient_accumulation_steps
    if count > 1:
        yield Problem(
            f"a gradient that is freed in the backward pass cannot be added up over {count} micro-batches",
            key=key,
            remedy="set gradient_accumulation_steps to 1",
        )
    if optimisation.grad_clip_method == "norm" and optimisation.gradient_limit:
        yield Problem(
            "the norm of all gradients is not known while single ones are stepped and freed",
            key=key,
            remedy="set grad_clip_method to value, or max_grad_norm to 0",
        )
    if spec.steps_together and not spec.release:
        yield Problem(f"{optimisation.optimizer} needs all gradients at once", key=key, remedy="set it to false")
