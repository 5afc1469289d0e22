from __future__ import annotations

import pytest
import torch

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.config.tracking import TrackingConfig
from tuner.flow import predict_x0, velocity_loss
from tuner.plugins import Family, FamilyEntry, create_extensions, create_manager
from tuner.types import Batch, Prediction
from tuner_min_snr import MinSnr

SIGMA = torch.tensor([0.05, 0.3, 0.5, 0.95])


class Toy:
    """A family that answers the same velocity for everything, with a weight of its own or without."""

    def __init__(self, velocity: torch.Tensor, weight: torch.Tensor | None) -> None:
        self._prediction = Prediction(velocity, weight)

    @hookimpl
    def compute_loss(self) -> Prediction:
        return self._prediction


def predict(batch: Batch, weight: torch.Tensor | None) -> Prediction:
    config = RunConfig.model_construct(tracking=TrackingConfig())
    extensions = [extension for extension in create_extensions(config) if isinstance(extension, MinSnr)]
    assert len(extensions) == 1
    family = Toy(torch.full((4, 2, 3, 3), 0.25), weight)
    manager = create_manager(Family(FamilyEntry("toy", "toy", "toy", "0"), family, None), extensions)
    return manager.hook.compute_loss(components=None, batch=batch)


@pytest.mark.parametrize("own", [None, torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)])
def test_the_loss_is_the_papers_loss_on_x0(own):
    x, target = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    batch = Batch(x, SIGMA, target, {})
    prediction = predict(batch, own)
    error = predict_x0(x, SIGMA, prediction.velocity) - predict_x0(x, SIGMA, target)
    snr = ((1 - SIGMA) / SIGMA) ** 2
    assert snr.max() > 5 > snr.min()
    expected = snr.clamp(max=5.0) * error.square().mean(dim=(1, 2, 3)) * (1 if own is None else own.flatten())
    torch.testing.assert_close(velocity_loss(prediction.velocity, target, prediction.weight), expected)
    assert torch.equal(prediction.velocity, torch.full((4, 2, 3, 3), 0.25))
