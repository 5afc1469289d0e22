"""Weights stored by torchao: the layer stays a `torch.nn.Linear`, its weight becomes one of torchao's tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
    quantize_,
)

from tuner.quantisation.sizes import tensor_bytes

# PEFT tells everybody that it cannot merge a LoRA into stored weights, which nothing here does.
warnings.filterwarnings("ignore", message=".*instantiated without `get_apply_tensor_subclass`")

_INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009, the stubs lack it

_CONFIGS: Mapping[str, Callable[[], Any]] = {
    "int8": Int8WeightOnlyConfig,
    "float8": Float8WeightOnlyConfig,
    "int4": lambda: IntxWeightOnlyConfig(weight_dtype=_INT4, granularity=PerGroup(32)),
}


def store(layer: nn.Linear, form: str) -> nn.Linear:
    """Quantise a layer's weight in place; activations stay as they are, since what is rounded has no gradient."""
    quantize_(layer, _CONFIGS[form]())
    layer.weight.requires_grad_(False)
    return layer


def dequantised(layer: nn.Linear) -> Tensor:
    """Return the weight that a stored layer computes with, shape (out_features, in_features)."""
    return layer.weight.dequantize()


def stored_bytes(layer: nn.Linear) -> int:
    """Return the size of a stored layer's weight."""
    return tensor_bytes(layer.weight)
