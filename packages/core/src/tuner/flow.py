"""The mathematics of rectified flow, in canonical coordinates, for every family.

    x(sigma) = (1 - sigma) * x0 + sigma * noise        sigma in [0, 1], 1 is pure noise
    velocity = dx/dsigma = noise - x0

(Liu, Gong and Liu 2022, "Flow Straight and Fast"; Esser et al. 2024, "Scaling Rectified Flow Transformers",
section 3.) Families differ in the time argument they feed, a sign, the normalisation of latents and a weight;
none of that is here.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
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
class CubicDensity:
    """A density on [0, 1] that goes through evenly spaced knots and never overshoots between two of them.

    Piecewise cubic (Fritsch and Butland 1984, "A Method for Constructing Local Monotone Piecewise Cubic
    Interpolants"; ends as in Moler 2004, "Numerical Computing with MATLAB", section 3.6). Two knots make a line, one
    is uniform.

    Attributes:
        knots: The density at 0, ..., 1, up to a common factor; none is below 0 and one is above it.
    """

    knots: tuple[float, ...]

    def at(self, sigma: float) -> float:
        """Return the density at `sigma` in [0, 1], on the scale of the knots."""
        if len(self.knots) == 1:
            return self.knots[0]
        place = sigma * (len(self.knots) - 1)
        left = min(int(place), len(self.knots) - 2)
        way = place - left
        # Hermite's cubic by Horner's scheme: values and slopes at both ends of the piece.
        step = self.knots[left + 1] - self.knots[left]
        first, last = self._slopes[left], self._slopes[left + 1]
        bend = 3 * step - 2 * first - last
        return self.knots[left] + way * (first + way * (bend + way * (first + last - 2 * step)))

    def draw(self, random: np.random.Generator) -> float:
        """Draw sigma: a uniform one is kept with a chance of density / largest density, until one is."""
        largest = max(self.knots)
        while True:
            sigma, height = random.random(2)
            if height * largest < self.at(sigma):
                return float(sigma)

    @cached_property
    def _slopes(self) -> list[float]:
        """Slope at each knot, per distance of two knots."""
        steps = [after - before for before, after in zip(self.knots, self.knots[1:], strict=False)]
        if len(steps) == 1:
            return steps * 2
        inner = [2 * a * b / (a + b) if a * b > 0 else 0.0 for a, b in itertools.pairwise(steps)]
        return [_end_slope(steps[0], steps[1]), *inner, _end_slope(steps[-1], steps[-2])]


def _end_slope(nearest: float, next_one: float) -> float:
    slope = (3 * nearest - next_one) / 2
    if slope * nearest <= 0:
        return 0.0
    if nearest * next_one < 0 and abs(slope) > 3 * abs(nearest):
        return 3 * nearest
    return slope


@dataclass(frozen=True)
class SigmaSchedule:
    """How sigma is drawn for a training sample.

    Attributes:
        density: Base density: sigmoid(scale * N(0, 1)), uniform, or Beta(alpha, beta).
        scale: Of the logit-normal density.
        alpha: Of the Beta density.
        beta: Of the Beta density.
        cubic: A density through knots; replaces `density`.
        shift: Static shift, or None for none.
        auto_shift: Shift by token count; replaces the static one.
        fixed: Sigmas to choose from instead of a density; never shifted.
        in_turn: Whether samples take the fixed sigmas one after the other instead of drawing one.
    """

    density: Density = "logit_normal"
    scale: float = 1.0
    alpha: float = 2.0
    beta: float = 2.0
    cubic: CubicDensity | None = None
    shift: float | None = None
    auto_shift: AutoShift | None = None
    fixed: tuple[float, ...] = ()
    in_turn: bool = False

    def shift_for(self, tokens: int) -> float:
        """Return the shift in force for a latent of `tokens` tokens; 1 is none."""
        if self.auto_shift is not None:
            return self.auto_shift.shift(tokens)
        return self.shift if self.shift is not None else 1.0

    def draw(self, random: np.random.Generator, tokens: int, position: int = 0) -> float:
        """Draw sigma in [0, 1].

        Args:
            random: Makes the draw.
            tokens: Tokens of the sample's latent.
            position: How many samples were trained on before it, for sigmas that are taken in turn.
        """
        if self.fixed:
            chosen = position % len(self.fixed) if self.in_turn else int(random.integers(len(self.fixed)))
            return self.fixed[chosen]
        return shift_sigma(self._draw_base(random), self.shift_for(tokens))

    def _draw_base(self, random: np.random.Generator) -> float:
        if self.cubic is not None:
            return self.cubic.draw(random)
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
