"""The loss in each tenth of the noise levels, which tells more than its mean: that depends on the levels drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tuner.training.processes import Processes

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

    def take(self, processes: Processes = Processes()) -> dict[str, float]:  # noqa: B008 - it is frozen
        """Return the mean loss of each bin that has samples in any process, and begin anew. The device is waited for.

        Several processes call this in the same step.
        """
        counts, sums = np.zeros(BINS), np.zeros(BINS)
        for own_counts, own_sums in processes.gather(self._own()):
            counts += own_counts
            sums += own_sums
        return {
            f"loss_by_sigma/{number / BINS:.1f}-{(number + 1) / BINS:.1f}": float(sums[number] / counts[number])
            for number in range(BINS)
            if counts[number]
        }

    def _own(self) -> tuple[list[int], list[float]]:
        """Return each bin's number of samples and the sum of their losses in this process."""
        if not self._losses:
            return [0] * BINS, [0.0] * BINS
        sigmas, losses = torch.cat(self._sigmas).double().numpy(), torch.cat(self._losses).cpu().double().numpy()
        self._sigmas, self._losses = [], []
        chosen = np.minimum((sigmas * BINS).astype(int), BINS - 1)
        return (
            np.bincount(chosen, minlength=BINS).tolist(),
            np.bincount(chosen, weights=losses, minlength=BINS).tolist(),
        )
