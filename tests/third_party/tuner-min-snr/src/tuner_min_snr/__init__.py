"""Weights losses by min-SNR-5 (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy")."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.types import Batch, Prediction

if TYPE_CHECKING:
    from torch import Tensor

GAMMA = 5.0


def create(config: RunConfig) -> MinSnr:
    """Take part in every run."""
    return MinSnr()


def weight_of(sigma_B: Tensor) -> Tensor:
    """Return the weight of each sample's squared velocity error, shape (B,).

    The paper weights the error of x0 by min(SNR, gamma), where SNR is ((1 - sigma) / sigma)^2. That error is sigma
    times the velocity's, so the velocity's weight is sigma^2 times the paper's.
    """
    return (1 - sigma_B).square().minimum(GAMMA * sigma_B.square())


class MinSnr:
    """Multiplies the family's own weight, if it has one."""

    @hookimpl(wrapper=True)
    def compute_loss(self, batch: Batch) -> Generator[None, Prediction, Prediction]:
        """Let the family predict, and change the weight of what it answers."""
        from tuner.flow import expand_sigma

        prediction = yield
        weight = expand_sigma(weight_of(batch.sigma), prediction.velocity)
        if prediction.weight is not None:
            weight = weight * prediction.weight
        return replace(prediction, weight=weight)
