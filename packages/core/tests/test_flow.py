import math

import numpy as np
import pytest
import torch
from scipy import stats

from tuner.flow import AutoShift, SigmaSchedule, mix, predict_x0, shift_sigma, velocity_loss, velocity_target
from tuner.randomness import derive_key, generator, normal_tensor, seeded_torch


def draws(schedule: SigmaSchedule, count: int = 20_000, tokens: int = 256) -> np.ndarray:
    return np.array([schedule.draw(generator(0, "sigma", step), tokens) for step in range(count)])


@pytest.mark.parametrize(("shift", "expected"), [(3.0, 0.75), (0.1, 1 / 11), (4.0, 0.8), (1.0, 0.5)])
def test_shift_moves_the_middle(shift, expected):
    assert shift_sigma(0.5, shift) == pytest.approx(expected, rel=1e-12)


def test_shift_keeps_the_ends():
    assert shift_sigma(0.0, 3.0) == 0.0
    assert shift_sigma(1.0, 3.0) == 1.0


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan])
def test_a_shift_must_be_positive(shift):
    with pytest.raises(ValueError, match="greater than 0"):
        shift_sigma(0.5, shift)


@pytest.mark.parametrize(
    ("pixels", "stride", "patch", "expected"),
    [(512, 8, 2, 1.878), (768, 8, 2, 2.332), (1024, 8, 2, 3.158), (512, 32, 1, 1.649), (1024, 32, 1, 1.878)],
)
def test_auto_shift_by_resolution(pixels, stride, patch, expected):
    tokens = (pixels // stride // patch) ** 2
    assert AutoShift().shift(tokens) == pytest.approx(expected, abs=5e-4)


def test_auto_shift_replaces_the_static_one():
    both = SigmaSchedule(shift=9.0, auto_shift=AutoShift())
    assert both.shift_for(1024) == AutoShift().shift(1024)


def test_logit_normal_density():
    sigma = draws(SigmaSchedule(scale=0.7))
    assert stats.kstest(np.log(sigma / (1 - sigma)), stats.norm(0, 0.7).cdf).pvalue > 0.01


def test_shift_is_a_translation_of_the_logit():
    sigma = draws(SigmaSchedule(shift=3.0))
    assert stats.kstest(np.log(sigma / (1 - sigma)), stats.norm(math.log(3.0), 1).cdf).pvalue > 0.01


def test_uniform_and_beta_densities():
    assert stats.kstest(draws(SigmaSchedule(density="uniform")), stats.uniform.cdf).pvalue > 0.01
    beta = draws(SigmaSchedule(density="beta", alpha=2.0, beta=5.0))
    assert stats.kstest(beta, stats.beta(2.0, 5.0).cdf).pvalue > 0.01


def test_fixed_sigmas_are_never_shifted():
    sigma = draws(SigmaSchedule(fixed=(0.25, 0.5), shift=3.0), count=200)
    assert set(sigma) == {0.25, 0.5}


def test_mixing_target_and_estimate_agree():
    x0, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    sigma = torch.tensor([0.0, 0.3, 1.0])
    x = mix(x0, noise, sigma)
    assert torch.equal(x[0], x0[0])
    assert torch.equal(x[2], noise[2])
    torch.testing.assert_close(predict_x0(x, sigma, velocity_target(x0, noise)), x0, rtol=0, atol=1e-6)


def test_mixing_works_for_latents_with_frames():
    x0, noise = torch.zeros(2, 16, 1, 4, 4), torch.ones(2, 16, 1, 4, 4)
    torch.testing.assert_close(mix(x0, noise, torch.tensor([0.25, 0.5]))[:, 0, 0, 0, 0], torch.tensor([0.25, 0.5]))


def test_loss_is_per_sample_and_masked_over_all_elements():
    target = torch.zeros(2, 1, 2, 2)
    velocity = torch.full((2, 1, 2, 2), 2.0)
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert velocity_loss(velocity, target).tolist() == [4.0, 4.0]
    assert velocity_loss(velocity, target, mask=mask).tolist() == [2.0, 2.0]
    assert velocity_loss(velocity, target, mask=torch.zeros(1)).tolist() == [0.0, 0.0]
    assert velocity_loss(velocity, target, weight=torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)).tolist() == [4.0, 12.0]


def test_draws_depend_on_every_argument_and_on_nothing_else():
    first = normal_tensor((4, 4), 1, "noise", 2, "a")
    generator(9, "other").random(100)
    assert torch.equal(first, normal_tensor((4, 4), 1, "noise", 2, "a"))
    others = [(2, "noise", 2, "a"), (1, "sigma", 2, "a"), (1, "noise", 3, "a"), (1, "noise", 2, "b")]
    assert all(not torch.equal(first, normal_tensor((4, 4), *other)) for other in others)


def test_keys_do_not_run_into_each_other():
    assert derive_key(1, "ab", 0, "c") != derive_key(1, "a", 0, "bc")
    assert derive_key(1, "x", 11, "") != derive_key(1, "x", 1, "1")


def test_noise_is_standard_normal():
    noise = torch.cat([normal_tensor((64,), 0, "noise", step) for step in range(500)]).numpy()
    assert stats.kstest(noise, stats.norm.cdf).pvalue > 0.01


def test_seeding_torch_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded_torch(1, "adapter"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded_torch(1, "adapter"):
        assert torch.equal(torch.rand(3), inside)
