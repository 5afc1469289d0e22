"""Storing a model's frozen linear layers by a scheme."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tuner.quantisation.schemes import SCHEMES, Scheme
from tuner.quantisation.sizes import tensor_bytes

_MARK = "stored_as"
"""Attribute of a stored layer: the name of its scheme."""


@dataclass(frozen=True)
class StoringReport:
    """What became of a model.

    Attributes:
        stored: Names of the layers that are quantised.
        skipped: Names of the linear layers that the family leaves alone.
        unfit: Names of those whose size the scheme does not take.
        bytes_before: Size of all parameters and buffers before.
        bytes_after: And after.
    """

    stored: tuple[str, ...]
    skipped: tuple[str, ...]
    unfit: tuple[str, ...]
    bytes_before: int
    bytes_after: int


@torch.no_grad()
def store_frozen(
    model: nn.Module, scheme: Scheme, skip_layers: Iterable[str], *, via: torch.device, device: torch.device
) -> StoringReport:
    """Store the linear layers of a frozen model by a scheme, one after the other, and move all of it to a device.

    Each layer's own weight is dropped before the next one is converted, so the peak is the model as it was loaded and
    one converted layer. Conversion draws nothing: equal weights give equal stored ones.

    Args:
        model: A frozen model. Changed in place.
        scheme: How.
        skip_layers: Glob patterns of layers that stay as they are, with all that is inside them.
        via: Where a layer is converted.
        device: Where the model is put.
    """
    before = stored_bytes(model)
    patterns = tuple(skip_layers)
    stored, skipped, unfit = [], [], []
    for name, layer in list(_linear_layers(model)):
        if _is_skipped(name, patterns):
            skipped.append(name)
        elif layer.in_features % scheme.multiple:
            unfit.append(name)
        else:
            stored.append(name)
            _replace(model, name, _converted(layer.to(via), scheme).to(device))
    model.to(device)
    return StoringReport(tuple(stored), tuple(skipped), tuple(unfit), before, stored_bytes(model))


def stored_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the quantised layers of a model by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and getattr(module, _MARK, None) is not None
    }


def dequantised_weight(layer: nn.Module) -> Tensor:
    """Return the weight that a layer computes with: a stored one's as floating-point numbers, another's as it is."""
    scheme = getattr(layer, _MARK, None)
    weight: Any = layer.weight if scheme is None else SCHEMES[scheme].library.load().dequantised(layer)
    return weight


@torch.no_grad()
def restore_floats(model: nn.Module) -> None:
    """Replace stored layers by ordinary ones that hold the same rounded values."""
    for name, layer in stored_layers(model).items():
        weight = dequantised_weight(layer)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight.to(weight.dtype, copy=True), requires_grad=False)
        plain.bias = layer.bias
        _replace(model, name, plain.train(layer.training))


def stored_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers, each counted once."""
    stored = stored_layers(model)
    weights = {id(layer.weight) for layer in stored.values()}
    plain = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in weights}
    own = sum(SCHEMES[getattr(layer, _MARK)].library.load().stored_bytes(layer) for layer in stored.values())
    return own + sum(map(tensor_bytes, plain.values()))


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the layers that compute just x W' + b; sub-classes may do something else with their weight."""
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            yield name, module


def _is_skipped(name: str, patterns: tuple[str, ...]) -> bool:
    parts = name.split(".")
    paths = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(path, pattern) for path in paths for pattern in patterns)


def _converted(layer: nn.Linear, scheme: Scheme) -> nn.Linear:
    converted: nn.Linear = scheme.library.load().store(layer, scheme.form)
    setattr(converted, _MARK, scheme.name)
    return converted


def _replace(model: nn.Module, name: str, layer: nn.Linear) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
