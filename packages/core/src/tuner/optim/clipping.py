"""Limits on the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm


def clip_gradients(
    parameters: Iterable[Parameter], method: Literal["value", "norm"], limit: float, *, measure: bool = True
) -> dict[str, Tensor]:
    """Limit gradients in place. The device is not waited for.

    Args:
        parameters: Whose gradients; those without one are passed over.
        method: `value` clamps every element to [-limit, limit]; `norm` scales all so that their L2 norm is at most
            the limit.
        limit: The limit; 0 for none.
        measure: Whether `value` takes the size, a pass over all gradients that is longer than the clamping itself.

    Returns:
        The size before clipping, a scalar on the device: `grad_max_abs` for value, `grad_norm` for norm; nothing
        without a limit, or where it was not taken.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    if not limit or not trained:
        return {}
    if method == "norm":
        return {"grad_norm": clip_grad_norm_(trained, limit)}
    largest = get_total_norm([p.grad for p in trained if p.grad is not None], norm_type=torch.inf) if measure else None
    clip_grad_value_(trained, limit)
    return {} if largest is None else {"grad_max_abs": largest}
