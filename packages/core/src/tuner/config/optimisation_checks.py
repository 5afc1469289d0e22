"""Rules about optimizer, learning rate and gradients."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.config.optimisation import OptimisationConfig
from tuner.config.optimizer_options import try_options
from tuner.config.optimizers import OPTIMIZERS
from tuner.config.partial import as_far_as_known
from tuner.config.precision import PrecisionConfig
from tuner.errors import Problem


def optimisation_conflicts(optimisation: OptimisationConfig, precision: PrecisionConfig) -> Iterator[Problem]:
    """Check what only several settings together can violate, and the optimizer's arguments."""
    yield from _length(optimisation)
    yield from _weights(optimisation, precision)
    yield from _schedule(optimisation)
    yield from _optimizer(optimisation)
    yield from _accumulation(optimisation)
    yield from _clipping(optimisation)
    yield from _together(optimisation)
    yield from _scaling(optimisation, precision)


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
    if precision.mixed_precision == "fp16":
        yield (
            "mixed_precision fp16 is for weights that were published for it and for devices without bf16: float16 "
            "overflows beyond 65504; bf16 takes less memory and does not"
        )
    if precision.mixed_precision == "bf16" and spec.rounding is None:
        better = ", ".join(other for other, item in OPTIMIZERS.items() if item.rounding)
        yield (
            f"optimizer {name} rounds weights to bf16 after each step: changes below 1/256 of a weight are lost "
            f"(not so with {better})"
        )


@as_far_as_known
def _length(optimisation: OptimisationConfig) -> Iterator[Problem]:
    if (optimisation.max_train_steps > 0) == (optimisation.num_train_epochs > 0):
        yield Problem(
            f"max_train_steps is {optimisation.max_train_steps} and num_train_epochs is "
            f"{optimisation.num_train_epochs}: exactly one must be above 0",
            key="max_train_steps",
            remedy="give the length of the run with one of them, and set the other to 0",
        )


@as_far_as_known
def _weights(optimisation: OptimisationConfig, precision: PrecisionConfig) -> Iterator[Problem]:
    if precision.mixed_precision != "bf16" and optimisation.optimizer == "adamw_bf16":
        yield Problem(
            f"adamw_bf16 trains bf16 weights, but mixed_precision is {precision.mixed_precision}",
            key="optimizer",
            remedy="use optimi-adamw, or mixed_precision bf16",
        )


@as_far_as_known
def _schedule(optimisation: OptimisationConfig) -> Iterator[Problem]:
    if optimisation.lr_scheduler == "polynomial" and optimisation.lr_end >= optimisation.learning_rate:
        end, peak = optimisation.lr_end, optimisation.learning_rate
        yield Problem(
            f"{end:g} is not below learning_rate ({peak:g}), from where a polynomial schedule falls to it",
            key="lr_end",
            remedy="make it smaller",
        )


@as_far_as_known
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


@as_far_as_known
def _accumulation(optimisation: OptimisationConfig) -> Iterator[Problem]:
    count = optimisation.gradient_accumulation_steps
    if count > 1 and optimisation.releases_gradients:
        yield Problem(
            f"a gradient that is freed in the backward pass cannot be added up over {count} micro-batches",
            key=_releasing(optimisation),
            remedy="set gradient_accumulation_steps to 1",
        )


@as_far_as_known
def _clipping(optimisation: OptimisationConfig) -> Iterator[Problem]:
    if not optimisation.releases_gradients:
        return
    if optimisation.grad_clip_method == "norm" and optimisation.gradient_limit:
        yield Problem(
            "the norm of all gradients is not known while single ones are stepped and freed",
            key=_releasing(optimisation),
            remedy="set grad_clip_method to value, or max_grad_norm to 0",
        )


@as_far_as_known
def _together(optimisation: OptimisationConfig) -> Iterator[Problem]:
    spec = optimisation.optimizer_spec
    if optimisation.releases_gradients and spec.steps_together and not spec.release:
        key = _releasing(optimisation)
        yield Problem(f"{optimisation.optimizer} needs all gradients at once", key=key, remedy="set it to false")


@as_far_as_known
def _scaling(optimisation: OptimisationConfig, precision: PrecisionConfig) -> Iterator[Problem]:
    if precision.mixed_precision == "fp16" and optimisation.releases_gradients:
        yield Problem(
            "a step whose gradients overflow float16 is left out, which needs all of them at once",
            key=_releasing(optimisation),
            remedy="set it to false, or mixed_precision to bf16",
        )


def _releasing(optimisation: OptimisationConfig) -> str:
    """Return the setting that asks for gradients to be released."""
    return "optimizer_release_gradients" if optimisation.optimizer_release_gradients else "optimizer_config"
