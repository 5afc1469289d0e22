"""Making the optimizer of a run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from tuner.config.optimizer_options import read_options
from tuner.config.optimizers import OptimizerSpec, find_optimizer, optimizer_spec
from tuner.errors import TunerError
from tuner.optim.release import ReleasedOptimizer, step_within

logger = logging.getLogger(__name__)


def create_optimizer(
    name: str,
    named_parameters: Sequence[tuple[str, Parameter]],
    lr: float,
    dtype: torch.dtype,
    arguments: Mapping[str, Any] | None = None,
    *,
    release: bool = False,
    clip_value: float = 0.0,
    sharded: bool = False,
) -> Optimizer:
    """Make an optimizer over named parameters.

    Args:
        name: A key of `tuner.config.optimizers.OPTIMIZERS`, or the path of a class.
        named_parameters: What to train; the names identify the state in checkpoints.
        lr: Learning rate.
        dtype: Of the parameters. In a short format the rounding error of each update is kept where the optimizer can:
            without that small updates vanish.
        arguments: Arguments of the class that replace the defaults.
        release: Whether parameters are stepped and their gradients freed within the backward pass.
        clip_value: Where they are: the limit of each element of a gradient; 0 for none.
        sharded: Whether the parameters are shared out over processes.

    Raises:
        TunerError: The library does not accept an argument or cannot be used.
    """
    spec = optimizer_spec(name)
    parameters = list(named_parameters)
    device = parameters[0][1].device
    if (path := _path(spec, device)) != spec.path:
        logger.warning("optimizer %s needs CUDA; %s runs in its place", name, path)
    try:
        make = optimizer_maker(name, device, dtype, arguments, sharded=sharded)
        if release and spec.release:
            return ReleasedOptimizer([make(parameters, lr=lr, **{spec.release: True})], step_within, clip_value)
        if release:
            return ReleasedOptimizer([make([one], lr=lr) for one in parameters], clip_value=clip_value)
        return make(parameters, lr=lr)
    except (TypeError, ValueError) as error:
        raise TunerError(f"optimizer {name}: {error}\n    -> look at optimizer_config") from error


def optimizer_maker(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    arguments: Mapping[str, Any] | None = None,
    *,
    sharded: bool = False,
) -> Callable[..., Optimizer]:
    """Return the class that runs on a device for weights of a dtype, with all its arguments but parameters and `lr`.

    Arguments but `lr` are those of `create_optimizer`.

    Raises:
        ValueError: The class cannot be imported, or does not accept an argument.
    """
    spec = optimizer_spec(name)
    settings = dict(spec.defaults)
    if spec.rounding:
        # Said outright: left open, some find out in their first step, and a resumed one would never take it.
        settings[spec.rounding] = dtype in (torch.bfloat16, torch.float16)
    settings |= read_options(spec, arguments or {})
    if sharded:
        settings |= spec.sharded or {}
    made: Callable[..., Optimizer] = find_optimizer(_path(spec, device))
    return functools.partial(made, **settings)


def _path(spec: OptimizerSpec, device: torch.device) -> str:
    return spec.off_cuda if spec.off_cuda and device.type != "cuda" else spec.path


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all groups. The device is not waited for."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def reported(name: str, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer tells of itself, as scalars by name: Prodigy's estimate `d`."""
    group = optimizer.param_groups[0]
    return {key: torch.as_tensor(group[key], dtype=torch.float32) for key in optimizer_spec(name).reports}
