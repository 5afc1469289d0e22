"""An optimizer's state as named tensors and JSON, exactly.

Torch's own `load_state_dict` casts state to the dtype of the parameter and knows parameters by their position; a
checkpoint must do neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from tuner.errors import CheckpointError


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer that was made with named parameters.

    Returns:
        The tensors, the live ones, under `parameter:NAME:KEY` and `group:INDEX:KEY`; and the plain values as an object
        that JSON can hold.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"optimizer": type(optimizer).__name__, "parameters": {}, "groups": []}
    for name, parameter in _parameters(optimizer):
        values, others = _split(optimizer.state.get(parameter, {}))
        tensors |= {f"parameter:{name}:{key}": value for key, value in values.items()}
        plain["parameters"][name] = {"shape": list(parameter.shape), "values": others}
    for index, group in enumerate(optimizer.param_groups):
        values, others = _split(_written(group, optimizer.defaults))
        tensors |= {f"group:{index}:{key}": value for key, value in values.items()}
        plain["groups"].append(others)
    return tensors, plain


def load_optimizer_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Give an optimizer of the same kind and parameters the state that `optimizer_state` returned.

    dtypes are kept. What belongs to a parameter goes to its device, the rest stays on the CPU.

    Raises:
        CheckpointError: Optimizers, parameters or groups differ; the optimizer was not changed.
    """
    parameters = dict(_parameters(optimizer))
    if plain["optimizer"] != type(optimizer).__name__:
        raise CheckpointError(
            f"the checkpoint's optimizer is {plain['optimizer']}, this run's {type(optimizer).__name__}; resume with "
            "the optimizer of the run that wrote it"
        )
    _check(parameters, len(optimizer.param_groups), tensors, plain)
    for name, parameter in parameters.items():
        optimizer.state[parameter] = dict(plain["parameters"][name]["values"])
    for group, values in zip(optimizer.param_groups, plain["groups"], strict=True):
        group.update(values)
    for path, tensor in tensors.items():
        kind, owner, key = _parts(path)
        if kind == "parameter":
            device = parameters[owner].device
            optimizer.state[parameters[owner]][key] = tensor.to(device, copy=True)
        else:
            optimizer.param_groups[int(owner)][key] = tensor.clone()


def _parameters(optimizer: Optimizer) -> Iterator[tuple[str, Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)


def _written(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the optimizer itself wrote into a group: all that was not given to it.

    The learning rate is the schedule's, a function of the step.
    """
    given = {"params", "param_names", "lr"}
    return {
        key: value
        for key, value in group.items()
        if key not in given and (key not in defaults or value is not defaults[key])
    }


def _split(values: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
    return tensors, {key: value for key, value in values.items() if key not in tensors}


def _parts(path: str) -> tuple[str, str, str]:
    kind, _, rest = path.partition(":")
    owner, _, key = rest.rpartition(":")
    return kind, owner, key


def _check(
    parameters: Mapping[str, Parameter], groups: int, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    saved = plain["parameters"]
    wrong = sorted(
        name
        for name in parameters.keys() | saved.keys()
        if name not in parameters or name not in saved or list(parameters[name].shape) != saved[name]["shape"]
    )
    owners = {(kind, owner) for kind, owner, _ in map(_parts, tensors)}
    wrong += sorted(owner for kind, owner in owners if kind == "parameter" and owner not in parameters)
    if wrong or len(plain["groups"]) != groups:
        names = ", ".join(wrong[:3]) or f"{len(plain['groups'])} groups for {groups}"
        raise CheckpointError(
            f"the checkpoint's optimizer state does not fit this run: {names} ({len(wrong)} parameters in all) differ; "
            "resume with the adapter and optimizer settings of the run that wrote it"
        )
