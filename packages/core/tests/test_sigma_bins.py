"""The loss by noise level, collected over steps."""

import pytest
import torch

from tuner.flow import velocity_loss
from tuner.training.sigma_bins import SigmaBins
from tuner.training.step import unweighted_losses
from tuner.types import Batch, Prediction


def test_bins_hold_the_mean_of_their_samples_over_all_steps_since_the_last_report():
    bins = SigmaBins()
    bins.add(torch.tensor([0.05, 0.55]), torch.tensor([1.0, 4.0]))
    bins.add(torch.tensor([0.51, 1.0, 0.0]), torch.tensor([2.0, 8.0, 3.0]))
    assert bins.take() == {"loss_by_sigma/0.0-0.1": 2.0, "loss_by_sigma/0.5-0.6": 3.0, "loss_by_sigma/0.9-1.0": 8.0}
    assert bins.take() == {}
    bins.add(torch.tensor([0.25]), torch.tensor([5.0]))
    assert bins.take() == {"loss_by_sigma/0.2-0.3": 5.0}


@pytest.mark.parametrize("edge", [number / 16 for number in range(17)])
def test_every_level_has_one_bin(edge):
    bins = SigmaBins()
    bins.add(torch.tensor([edge]), torch.tensor([1.0]))
    (name,) = bins.take()
    low, high = map(float, name.removeprefix("loss_by_sigma/").split("-"))
    assert low <= edge < high or edge == high == 1.0


@pytest.mark.parametrize("frames", [(), (1,)])
def test_a_familys_weight_is_left_out_and_a_mask_is_not(frames):
    random = torch.Generator().manual_seed(0)
    shape = (2, 3, *frames, 4, 4)
    velocity, target = (torch.randn(shape, generator=random) for _ in range(2))
    mask = torch.rand((2, 1, 4, 4), generator=random)
    weight = torch.tensor([0.5, 3.0]).view(2, *[1] * (len(shape) - 1))
    batch = Batch(velocity, torch.zeros(2), target, {})
    weighted = velocity_loss(velocity, target, weight)
    plain = (velocity - target).square().flatten(1).mean(1)
    torch.testing.assert_close(unweighted_losses(weighted, Prediction(velocity, weight), batch), plain)
    masked = ((velocity - target).square() * mask.view(2, 1, *frames, 4, 4)).flatten(1).mean(1)
    torch.testing.assert_close(unweighted_losses(weighted, Prediction(velocity, weight), batch, mask), masked)
