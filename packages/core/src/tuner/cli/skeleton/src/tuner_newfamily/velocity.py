"""NewFamily's velocity."""

from __future__ import annotations

from tuner.errors import PluginError
from tuner.types import Batch, Components, Prediction


def predict_velocity(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity noise - x0 from `batch.x`, `batch.sigma` in [0, 1] (1 is pure noise) and the conditioning.

    Ask yourself what time argument the network takes at sigma, in which scale and direction, and what its output is:
    the velocity, its negative, or something else. Compute the time argument in float32.
    """
    raise PluginError(f"{__file__} is still to be written\n    -> call components.denoiser and return its velocity")
