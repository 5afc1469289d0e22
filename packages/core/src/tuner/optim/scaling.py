"""Scaling of losses, so that gradients fit into float16.

float16 knows nothing below 6e-8, where many gradients lie. The loss is multiplied before the backward pass and its
gradients divided after it; where they overflow, the step is left out and the factor halved (Micikevicius et al.,
"Mixed Precision Training", 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tuner.errors import CheckpointError

SMALLEST = 1.0
"""Below this factor nothing is gained: gradients overflow by themselves."""


class LossScale:
    """The factor of a run, torch's own, which changes as the run goes on and so belongs to its state.

    Args:
        device: Where the gradients are.
    """

    def __init__(self, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type)

    @property
    def value(self) -> float:
        """The factor. An accelerator is waited for."""
        return self._scaler.get_scale()

    def scaled(self, loss: Tensor) -> Tensor:
        """Multiply a loss."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer's parameters."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Let the optimizer step unless gradients overflowed, adapt the factor, and tell whether it stepped."""
        before = self.value
        self._scaler.step(optimizer)
        self._scaler.update()
        return self.value >= before

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return dict(self._scaler.state_dict())

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned.

        Raises:
            CheckpointError: It is something else.
        """
        if state.keys() != self._scaler.state_dict().keys():
            raise CheckpointError(f"the checkpoint's loss scale holds {', '.join(sorted(state)) or 'nothing'}")
        self._scaler.load_state_dict(state)
