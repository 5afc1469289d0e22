"""The loss in each tenth of the noise levels, which tells more than its mean: that depends on the levels drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BINS = 10


class SigmaBins:
    """Collects losses of samples by noise level. Until they are asked for they stay on their device."""

    def __init__(self) -> None:
        self._sigmas: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, sigma_B: Tensor, loss_B: Tensor) -> None:
        """Take note of a micro-batch: noise levels on the CPU, losses on any device."""
        self._sigmas.append(sigma_B)
        self._losses.append(loss_B)

    def take(self) -> dict[str, float]:
        """Return the mean loss of each bin that has samples, and begin anew. The device is waited for."""
        if not self._losses:
            return {}
        sigmas, losses = torch.cat(self._sigmas).double().numpy(), torch.cat(self._losses).cpu().double().numpy()
        self._sigmas, self._losses = [], []
        chosen = np.minimum((sigmas * BINS).astype(int), BINS - 1)
        counts = np.bincount(chosen, minlength=BINS)
        sums = np.bincount(chosen, weights=losses, minlength=BINS)
        return {
            f"loss_by_sigma/{number / BINS:.1f}-{(number + 1) / BINS:.1f}": float(sums[number] / counts[number])
            for number in range(BINS)
            if counts[number]
        }
