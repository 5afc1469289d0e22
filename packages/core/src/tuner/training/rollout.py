"""Rollouts: a sample starts at more noise, and the model brings it to its sigma by an integrator of the flow.

All integrators are multistep methods on the estimate of the clean latent, m = x - sigma * velocity. From sigma s to t

    x(t) = (t / s) * x(s) + (1 - t / s) * m*

is exact where the estimate is the constant m*. Euler's method takes the estimate at s. `dpm` of order 2 extrapolates
it with the one before (DPM-Solver++(2M): Lu et al. 2022, arXiv 2211.01095, algorithm 2), linearly in the log-SNR
lambda = log((1 - sigma) / sigma). `unipc` also corrects the state that it reached, with the estimate made there
(UniPC with B(h) = e^h - 1: Zhao et al. 2023, arXiv 2302.04867).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner.flow import expand_sigma, predict_x0

ROLLOUT_STEP = 1e-3
"""Length in sigma of one model step of a rollout."""

Integrator = Literal["euler", "dpm", "unipc"]
Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x, sigma of shape (B,)) -> velocity, float32."""


@dataclass(frozen=True)
class Rollout:
    """How far the samples of a batch are rolled out, and how.

    Attributes:
        moves: Model steps of each sample, of shape (B,).
        integrator: Method.
        order: Order of `dpm` and `unipc`, 1 or 2; Euler's method has the first, whatever this says.
    """

    moves: Tensor
    integrator: Integrator = "euler"
    order: int = 1


@dataclass(frozen=True)
class _Step:
    """Numbers of one model step, each of shape (B,), for all samples of a batch.

    Attributes:
        sigma: Where it starts, float32.
        ratio: Sigma where it ends / sigma where it starts; 1 for samples that wait.
        ahead: Weight of m0 - m1, the last two estimates, in the predicted estimate.
        past: Weight of m0 - m1 in the corrected estimate.
        present: Weight of m2 - m0 in it, where m2 is the estimate at the end.
    """

    sigma: Tensor
    ratio: Tensor
    ahead: Tensor
    past: Tensor
    present: Tensor


def start_sigma(sigma_B: Tensor, rollout: Rollout) -> Tensor:
    """Return the sigma at which each sample's rollout starts; no more than 1."""
    return torch.clamp(sigma_B + rollout.moves * ROLLOUT_STEP, max=1.0)


def integrate(velocity: Velocity, x: Tensor, sigma_B: Tensor, rollout: Rollout) -> Tensor:
    """Bring samples from their starts to their sigmas.

    Args:
        velocity: Called once for each model step of the longest rollout.
        x: States at the starts, float32.
        sigma_B: Sigmas to end at, above 0, on the CPU.
        rollout: How far and how.

    Returns:
        The states reached. A sample whose rollout is shorter than others waits at its start until its turn comes.
    """
    m0 = m1 = before = x
    last: _Step | None = None
    for step in _plan(sigma_B.double().numpy(), rollout, x):
        estimate = predict_x0(x, step.sigma, velocity(x, step.sigma))
        if rollout.integrator == "unipc" and last is not None:
            corrected = m0 + expand_sigma(last.past, x) * (m0 - m1) + expand_sigma(last.present, x) * (estimate - m0)
            x = _move(before, last, corrected)
        m0, m1 = estimate, m0
        before, last = x, step
        x = _move(x, step, m0 + expand_sigma(step.ahead, x) * (m0 - m1))
    return x


def _move(x: Tensor, step: _Step, estimate: Tensor) -> Tensor:
    return torch.lerp(estimate, x, expand_sigma(step.ratio, x))


def _plan(ends: NDArray[np.float64], rollout: Rollout, like: Tensor) -> list[_Step]:
    """Work out the numbers of all steps, in float64 on the CPU: nothing has to be read back from the device."""
    moves = rollout.moves.numpy()
    left = np.minimum(moves, np.arange(moves.max(), -1, -1)[:, None])
    sigmas = np.minimum(1.0, ends + left * ROLLOUT_STEP)
    moving = sigmas[1:] < sigmas[:-1]
    # At pure noise lambda is minus infinity: a step from there is infinitely long, and the quotient after it is 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = np.diff(np.log1p(-sigmas) - np.log(sigmas), axis=0)
        quotients = np.zeros_like(lengths)
        if rollout.integrator != "euler" and rollout.order > 1:
            quotients[1:] = np.where(moving[1:] & moving[:-1], lengths[1:] / lengths[:-1], 0.0)
        past, present = _corrector(lengths, quotients)
    numbers = np.stack([sigmas[:-1], sigmas[1:] / sigmas[:-1], quotients / 2, past, present], axis=1)
    return [_Step(*step) for step in torch.from_numpy(numbers).to(like.device, like.dtype, non_blocking=True)]


def _corrector(h: NDArray[np.float64], q: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corrector's weights of m0 - m1 and of m2 - m0.

    They are q * a and b with a + b = c1 and b - a / q = c2 (Zhao et al., section 3.2, for the second order), where
    c1 = -1 / h - 1 / B and c2 = 2 * (1 / h^2 - 1 / (2 * B) + 1 / (h * B)), B = e^-h - 1. Of first order: 0 and 1/2.

    Args:
        h: Length of the step in lambda.
        q: h / the length of the step before it; 0 where there is none.
    """
    decay = np.expm1(-h)
    c1 = -1 / h - 1 / decay
    c2 = 2 * ((decay / -h - 1) / -h - 0.5) / decay
    a = np.where(q > 0, (c1 - c2) * q / (1 + q), 0.0)
    return q * a, np.where(q > 0, c1 - a, 0.5)
