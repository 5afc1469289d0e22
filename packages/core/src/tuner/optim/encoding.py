"""Values that optimizers keep, as named tensors and JSON.

What JSON does not know is an object with one of the keys below; dictionaries are wrapped, so that none looks like it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tuner.errors import CheckpointError
from tuner.sharding import is_sharded, shard_of, sharded_like

_TENSOR, _HOST, _PARTS, _TUPLE, _MAPPING, _DTYPE = "tensor", "on the host", "parts", "tuple", "mapping", "dtype"
_CLASS, _CONTEXT = "class", "context"


def encode(value: Any, path: str, home: Tensor, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON holds it, and put its tensors into `tensors`.

    A tensor that is made of others, as one with 8-bit blocks, is taken apart in the way that torch defines for such
    classes (`__tensor_flatten__`).

    Args:
        value: The value.
        path: Its name, the first part of the names of its tensors.
        home: The parameter that it belongs to.
        tensors: Where tensors go.

    Raises:
        CheckpointError: It is neither a tensor nor something that JSON can hold.
    """
    if isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__") and not is_sharded(value):
        names, context = value.__tensor_flatten__()
        parts = {name: encode(getattr(value, name), f"{path}.{name}", home, tensors) for name in names}
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return {_CLASS: kind, _PARTS: parts, _CONTEXT: encode(context, f"{path}.context", home, tensors)}
    if isinstance(value, Tensor):
        tensors[path] = value
        stays = value.device.type == "cpu" and home.device.type != "cpu"
        return {_TENSOR: path, _HOST: True} if stays else {_TENSOR: path}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {_MAPPING: {key: encode(item, f"{path}.{key}", home, tensors) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        items = [encode(item, f"{path}.{index}", home, tensors) for index, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(
        f"the optimizer keeps {path.rpartition(':')[2]!r}, a {type(value).__name__}, which a checkpoint cannot hold\n"
        "    -> train with another optimizer"
    )


def decode(value: Any, home: Tensor, tensors: Mapping[str, Tensor], library: str) -> Any:
    """Return what `encode` was given; tensors are copies, on the device where they were in relation to `home`.

    Args:
        value: What `encode` returned.
        home: The parameter that it belongs to.
        tensors: The tensors.
        library: The optimizer's package: only its classes of tensors are made.

    Raises:
        CheckpointError: A tensor is missing, or of a class that does not belong to the optimizer.
    """
    if isinstance(value, list):
        return [decode(item, home, tensors, library) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        if value[_TENSOR] not in tensors:
            raise CheckpointError(f"the checkpoint lacks the optimizer's {value[_TENSOR]}")
        tensor = tensors[value[_TENSOR]]
        if is_sharded(home) and tensor.shape == home.shape:
            return sharded_like(shard_of(tensor, home).clone(), home)
        return tensor.to("cpu" if value.get(_HOST) else home.device, copy=True)
    if _PARTS in value:
        parts = {name: decode(part, home, tensors, library) for name, part in value[_PARTS].items()}
        context = decode(value[_CONTEXT], home, tensors, library)
        return _tensor_class(value[_CLASS], library).__tensor_unflatten__(parts, context, home.shape, home.stride())
    if _TUPLE in value:
        return tuple(decode(item, home, tensors, library) for item in value[_TUPLE])
    if _DTYPE in value:
        return getattr(torch, value[_DTYPE])
    return {key: decode(item, home, tensors, library) for key, item in value[_MAPPING].items()}


def _tensor_class(path: str, library: str) -> Any:
    """Find a class of tensors among what is loaded; a checkpoint imports nothing."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if module.partition(".")[0] != library or not (isinstance(found, type) and issubclass(found, Tensor)):
        raise CheckpointError(f"the checkpoint's optimizer keeps tensors of {path}, which this run's does not")
    return found
