"""Weights stored by optimum-quanto: the layer stays a `torch.nn.Linear`, its weight becomes one of quanto's tensors."""

from __future__ import annotations

import warnings

import torch
from optimum.quanto import QLinear, qtypes
from torch import Tensor, nn
from torch.library import Library

from tuner.quantisation.sizes import tensor_bytes


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Return the numbers of so many bits that bytes hold, the lowest bits of all bytes first, along dimension 0."""
    return torch.cat([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)])


# On the CPU quanto does the same in C++, which it compiles at the first use: for minutes, with a compiler that many
# machines lack, and behind a lock that a killed process leaves behind.
_OPERATIONS = Library("quanto", "FRAGMENT")
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
    _OPERATIONS.impl("unpack", _unpack, "CPU")


def store(layer: nn.Linear, form: str) -> nn.Linear:
    """Quantise a layer's weight in place, row by row or in groups of quanto's own choice."""
    quantised = QLinear.from_module(layer, weights=qtypes[form])
    quantised.freeze()
    layer.weight = quantised.weight.requires_grad_(False)
    layer.register_forward_pre_hook(_contiguous)
    return layer


def _contiguous(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    # The kernel for int8 and bfloat16 on the CPU takes nothing else.
    return (inputs[0].contiguous(),)


def dequantised(layer: nn.Linear) -> Tensor:
    """Return the weight that a stored layer computes with, shape (out_features, in_features)."""
    return layer.weight.dequantize()


def stored_bytes(layer: nn.Linear) -> int:
    """Return the size of a stored layer's weight."""
    return tensor_bytes(layer.weight)
