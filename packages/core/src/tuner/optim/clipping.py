"""Limits on the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_

from tuner.sharding import total_norm


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
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    if method == "norm":
        size = total_norm(gradients, 2)
        clip_grads_with_norm_(trained, limit, size)
        return {"grad_norm": size}
    largest = total_norm(gradients, torch.inf) if measure else None
    clip_grad_value_(trained, limit)
    return {} if largest is None else {"grad_max_abs": largest}
