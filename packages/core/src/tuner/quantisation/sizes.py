"""Sizes of tensors that are made of others."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def tensor_bytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor's values take, through the wrappers of quantisation libraries."""
    wrapper: Any = tensor
    if not hasattr(wrapper, "__tensor_flatten__"):
        return tensor.nbytes
    names, _ = wrapper.__tensor_flatten__()
    inner = [getattr(wrapper, name) for name in names]
    return sum(tensor_bytes(part) for part in inner if isinstance(part, Tensor))
