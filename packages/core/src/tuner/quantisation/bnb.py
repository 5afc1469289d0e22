"""Weights stored by bitsandbytes, in layers of its own."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor, nn

from tuner.quantisation.sizes import tensor_bytes


class Linear(Linear4bit):
    """A 4-bit layer, named as what it stands in for: adapters choose layers by the names of classes."""

    # In evaluation mode the library would change the stored weight to a layout that has no gradient.
    support_avx512bf16_for_cpu = False

    def __init__(self, layer: nn.Linear, form: str) -> None:
        # Storage that claims to have the compute dtype: encoders cast their inputs to the dtype of the weight.
        storage: dict[str, Any] = {
            "quant_type": form,
            "quant_storage": layer.weight.dtype,
            "compress_statistics": False,
        }
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta", **storage)
        del self.support_avx512bf16_for_cpu  # the instance's own, which the constructor sets
        self.weight = Params4bit(layer.weight.data, requires_grad=False, module=self, **storage)
        self.weight = self.weight.to(layer.weight.device)  # converts it
        self.bias = layer.bias


def store(layer: nn.Linear, form: str) -> nn.Linear:
    """Return a layer that holds the weight in blocks of 64 values, and the bias as it is."""
    return Linear(layer, form).train(layer.training)


def dequantised(layer: nn.Linear) -> Tensor:
    """Return the weight that a stored layer computes with, shape (out_features, in_features)."""
    weight: Any = layer.weight
    values: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return values


def stored_bytes(layer: nn.Linear) -> int:
    """Return the size of a stored layer's weight, its scales included."""
    state: Any = layer.weight
    parts: tuple[torch.Tensor, ...] = (state.data, state.quant_state.absmax, state.quant_state.code)
    return sum(map(tensor_bytes, parts))
