"""An optimizer's state as named tensors and JSON, exactly.

Torch's own `load_state_dict` casts state to the dtype of the parameter and knows parameters by their position; a
checkpoint must do neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from tuner.errors import CheckpointError
from tuner.optim.encoding import decode, encode
from tuner.optim.release import ReleasedOptimizer


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer that was made with named parameters.

    Returns:
        The tensors, the live ones, shared out over processes where their parameters are, under `parameter:NAME:KEY`
        and `group:INDEX:KEY`; and the plain values as an object that JSON can hold.

    Raises:
        CheckpointError: The optimizer keeps something that is neither.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"optimizer": _kind(optimizer), "parameters": {}, "groups": []}
    for name, parameter in _parameters(optimizer):
        state = optimizer.state.get(parameter, {})
        values = {key: encode(value, f"parameter:{name}:{key}", parameter, tensors) for key, value in state.items()}
        plain["parameters"][name] = {"shape": list(parameter.shape), "values": values}
    for index, group in enumerate(optimizer.param_groups):
        written, home = _written(group, optimizer.defaults), group["params"][0]
        values = {key: encode(value, f"group:{index}:{key}", home, tensors) for key, value in written.items()}
        plain["groups"].append(values)
    return tensors, plain


def load_optimizer_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Give an optimizer of the same kind and parameters the state that `optimizer_state` returned.

    dtypes are kept. What was beside a parameter goes to its device, the rest stays on the CPU.

    Raises:
        CheckpointError: Optimizers, parameters or groups differ; the optimizer was not changed.
    """
    parameters = dict(_parameters(optimizer))
    if plain["optimizer"] != _kind(optimizer):
        raise CheckpointError(
            f"the checkpoint's optimizer is {plain['optimizer']}, this run's {_kind(optimizer)}; resume with "
            "the optimizer of the run that wrote it"
        )
    _check(parameters, len(optimizer.param_groups), plain)
    library = type(_first(optimizer)).__module__.partition(".")[0]

    def decoded(values: Mapping[str, Any], home: Parameter) -> dict[str, Any]:
        return {key: decode(value, home, tensors, library) for key, value in values.items()}

    states = {name: decoded(plain["parameters"][name]["values"], parameters[name]) for name in parameters}
    groups = [
        decoded(values, group["params"][0])
        for group, values in zip(optimizer.param_groups, plain["groups"], strict=True)
    ]
    for name, parameter in parameters.items():
        optimizer.state[parameter] = states[name]
    for group, values in zip(optimizer.param_groups, groups, strict=True):
        group.update(values)


def _first(optimizer: Optimizer) -> Optimizer:
    return optimizer.parts[0] if isinstance(optimizer, ReleasedOptimizer) else optimizer


def _kind(optimizer: Optimizer) -> str:
    return type(_first(optimizer)).__name__


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


def _check(parameters: Mapping[str, Parameter], groups: int, plain: Mapping[str, Any]) -> None:
    saved = plain["parameters"]
    wrong = sorted(
        name
        for name in parameters.keys() | saved.keys()
        if name not in parameters or name not in saved or list(parameters[name].shape) != saved[name]["shape"]
    )
    if wrong or len(plain["groups"]) != groups:
        names = ", ".join(wrong[:3]) or f"{len(plain['groups'])} groups for {groups}"
        raise CheckpointError(
            f"the checkpoint's optimizer state does not fit this run: {names} ({len(wrong)} parameters in all) differ; "
            "resume with the adapter and optimizer settings of the run that wrote it"
        )
