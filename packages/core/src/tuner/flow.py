"""The mathematics of rectified flow, in canonical coordinates, for every family.

    x(sigma) = (1 - sigma) * x0 + sigma * noise        sigma in [0, 1], 1 is pure noise
    velocity = dx/dsigma = noise - x0

(Liu, Gong and Liu 2022, "Flow Straight and Fast"; Esser et al. 2024, "Scaling Rectified Flow Transformers",
section 3.) Families differ in the time argument they feed, a sign, the normalisation of latents and a weight;
none of that is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Density = Literal["logit_normal", "uniform", "beta"]


def shift_sigma(sigma: float, shift: float) -> float:
    """Move sigma towards noise (shift > 1) or detail (shift < 1): s*sigma / (1 + (s-1)*sigma).

    Esser et al. 2024, equation 23. Raises ValueError unless shift > 0.
    """
    if not shift > 0:
        raise ValueError(f"shift ({shift}) must be greater than 0")
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


@dataclass(frozen=True)
class AutoShift:
    """Shift as a function of the number of latent tokens: exp(mu), mu linear in the token count.

    The parameters are those of the model's scheduler config, under the names that diffusers gives them.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096

    def shift(self, tokens: int) -> float:
        """Return the shift for a latent of `tokens` tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        return math.exp(self.base_shift + slope * (tokens - self.base_image_seq_len))


@dataclass(frozen=True)
class SigmaSchedule:
    """How sigma is drawn for a training sample.

    Attributes:
        density: Base density: sigmoid(scale * N(0, 1)), uniform, or Beta(alpha, beta).
        scale: Of the logit-normal density.
        alpha: Of the Beta density.
        beta: Of the Beta density.
        shift: Static shift, or None for none.
        auto_shift: Shift by token count; replaces the static one.
        fixed: Sigmas to choose from instead of a density; never shifted.
    """

    density: Density = "logit_normal"
    scale: float = 1.0
    alpha: float = 2.0
    beta: float = 2.0
    shift: float | None = None
    auto_shift: AutoShift | None = None
    fixed: tuple[float, ...] = ()

    def shift_for(self, tokens: int) -> float:
        """Return the shift in force for a latent of `tokens` tokens; 1 is none."""
        if self.auto_shift is not None:
            return self.auto_shift.shift(tokens)
        return self.shift if self.shift is not None else 1.0

    def draw(self, random: np.random.Generator, tokens: int) -> float:
        """Draw sigma in [0, 1] for a latent of `tokens` tokens."""
        if self.fixed:
            return self.fixed[int(random.integers(len(self.fixed)))]
        return shift_sigma(self._draw_base(random), self.shift_for(tokens))

    def _draw_base(self, random: np.random.Generator) -> float:
        if self.density == "uniform":
            return float(random.random())
        if self.density == "beta":
            return float(random.beta(self.alpha, self.beta))
        return 1.0 / (1.0 + math.exp(-self.scale * float(random.standard_normal())))


def expand_sigma(sigma_B: Tensor, like: Tensor) -> Tensor:
    """View sigma of shape (B,) so that it broadcasts over a batch-first tensor."""
    return sigma_B.view(-1, *[1] * (like.ndim - 1))


def mix(x0: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """Return x(sigma) = (1 - sigma) * x0 + sigma * noise."""
    return x0.lerp(noise, expand_sigma(sigma_B, x0))


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity noise - x0."""
    return noise - x0


def predict_x0(x: Tensor, sigma_B: Tensor, velocity: Tensor) -> Tensor:
    """Return the clean latent that a velocity implies: x - sigma * velocity."""
    return x - expand_sigma(sigma_B, x) * velocity


def velocity_loss(velocity: Tensor, target: Tensor, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Return the loss of each sample: the mean over its elements of weight * mask * (velocity - target)^2.

    Args:
        velocity: Predicted velocity, batch-first.
        target: True velocity, of the same shape.
        weight: Broadcastable element weight.
        mask: Broadcastable mask in [0, 1]. The mean runs over all elements, masked ones included, so a
            black mask gives a loss of 0 and a white one changes nothing.

    Returns:
        float32 tensor of shape (B,).
    """
    error = (velocity.float() - target.float()).square()
    if weight is not None:
        error = error * weight
    if mask is not None:
        error = error * mask
    return error.flatten(1).mean(dim=1)
