"""Weights stored by optimum-quanto: the layer stays a `torch.nn.Linear`, its weight becomes one of quanto's tensors."""

from __future__ import annotations

from optimum.quanto import QLinear, qtypes
from torch import Tensor, nn

from tuner.quantisation.sizes import tensor_bytes


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
