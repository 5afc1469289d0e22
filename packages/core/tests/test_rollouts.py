"""Integrators of rollouts against the schedulers of diffusers and against a flow that is known exactly."""

import warnings

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from scipy import stats

from tuner.config.scheduled_sampling import ScheduledSamplingConfig
from tuner.flow import mix
from tuner.randomness import generator
from tuner.training.rollout import Rollout, integrate, start_sigma

INTEGRATORS = [("euler", 1), ("dpm", 1), ("dpm", 2), ("unipc", 1), ("unipc", 2)]


def curved(x, sigma_B):
    """A velocity that is no straight line's: x0 estimates depend on sigma and on the state."""
    sigma = sigma_B.view(-1, 1, 1, 1)
    return torch.tanh(x * (1 + 3 * sigma)) + torch.sin(40 * sigma) - x


def by_diffusers(scheduler, x, sigmas):
    """Integrate one sample over given sigmas."""
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.set_begin_index(0)
    for sigma, time in zip(sigmas, scheduler.timesteps, strict=False):
        velocity = curved(x, torch.tensor([sigma], dtype=torch.float64))
        x = scheduler.step(velocity, time, x).prev_sample
    return x


@pytest.mark.parametrize(("integrator", "order"), [pair for pair in INTEGRATORS if pair[0] != "euler"])
def test_they_are_those_of_diffusers(integrator, order):
    kinds = {"dpm": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
    settings = {
        "solver_order": order,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "final_sigmas_type": "sigma_min",
        "lower_order_final": False,
    }
    ends = torch.tensor([0.7, 0.31, 0.9])
    rollout = Rollout(torch.tensor([9, 4, 0]), integrator, order)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    reached = integrate(curved, x, ends, rollout)
    for row, (end, moves) in enumerate(zip(ends.double().tolist(), rollout.moves.tolist(), strict=True)):
        sigmas = [end + left * 1e-3 for left in range(moves, -1, -1)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            scheduler = kinds[integrator](**settings)
        expected = by_diffusers(scheduler, x[row : row + 1].double(), sigmas) if moves else x[row : row + 1].double()
        moved = (expected - x[row]).abs().max()
        assert (reached[row : row + 1] - expected).abs().max() <= 1e-6 + 1e-4 * moved


def straight(x0):
    return lambda x, sigma_B: (x - x0) / sigma_B.view(-1, 1, 1, 1)


@pytest.mark.parametrize(("integrator", "order"), INTEGRATORS)
@pytest.mark.parametrize("ends", [(0.4, 0.8), (0.9985, 1.0)])
def test_all_are_exact_on_a_straight_flow(integrator, order, ends):
    """Also where a rollout would start beyond pure noise, and starts at it."""
    x0, noise = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    sigma = torch.tensor(ends)
    rollout = Rollout(torch.tensor([5, 3]), integrator, order)
    start = start_sigma(sigma, rollout)
    torch.testing.assert_close(start, torch.tensor([min(1.0, ends[0] + 5e-3), min(1.0, ends[1] + 3e-3)]))
    reached = integrate(straight(x0), mix(x0, noise, start), sigma, rollout)
    torch.testing.assert_close(reached, mix(x0, noise, sigma), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("integrator", "order"), INTEGRATORS)
def test_a_sample_does_not_depend_on_those_beside_it(integrator, order):
    x, sigma, moves = torch.randn(3, 1, 4, 4), torch.tensor([0.2, 0.5, 0.999]), torch.tensor([3, 7, 5])
    together = integrate(curved, x, sigma, Rollout(moves, integrator, order))
    for row in range(3):
        here = slice(row, row + 1)
        alone = integrate(curved, x[here], sigma[here], Rollout(moves[here], integrator, order))
        assert torch.equal(together[here], alone)


def test_euler_has_one_order():
    x, end, moves = torch.randn(1, 1, 4, 4), torch.tensor([0.1]), torch.tensor([9])
    plain, second = (integrate(curved, x, end, Rollout(moves, "euler", order)) for order in (1, 2))
    assert torch.equal(plain, second)
    by_hand = x.clone()
    for step in range(9, 0, -1):
        by_hand -= 1e-3 * curved(by_hand, end + step * 1e-3)
    torch.testing.assert_close(plain, by_hand, rtol=0, atol=1e-5)


def test_higher_orders_are_nearer_to_the_flow():
    """For data of one variance the flow is known: x(sigma) / sqrt((1 - sigma)^2 + sigma^2) stays what it is."""

    def spread(sigma):
        return ((1 - sigma) ** 2 + sigma**2) ** 0.5

    def velocity(x, sigma_B):
        sigma = sigma_B.view(-1, 1, 1, 1)
        return x * (2 * sigma - 1) / spread(sigma) ** 2

    x, end = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64), torch.tensor([0.3])
    moves = 300
    exact = float(3.0 * spread(0.3) / spread(0.6))
    errors = {
        pair: abs(float(integrate(velocity, x, end, Rollout(torch.tensor([moves]), *pair))) - exact)
        for pair in INTEGRATORS
    }
    assert errors["dpm", 2] < errors["euler", 1] / 20
    assert errors["unipc", 2] < errors["euler", 1] / 20
    assert errors["dpm", 1] == pytest.approx(errors["euler", 1])


@pytest.mark.parametrize(
    ("strategy", "at_least"),
    [
        ("uniform", lambda share: share),
        ("biased_early", lambda share: share**2),
        ("biased_late", lambda share: 1 - (1 - share) ** 2),
    ],
)
def test_how_long_rollouts_are(strategy, at_least):
    config = ScheduledSamplingConfig(scheduled_sampling_max_step_offset=6, scheduled_sampling_strategy=strategy)
    drawn = [config.draw_moves(generator(0, "rollout", step)) for step in range(20_000)]
    tails = [at_least((7 - moves) / 7) for moves in range(8)]
    expected = -np.diff(tails) * len(drawn)
    assert stats.chisquare(np.bincount(drawn, minlength=7), expected).pvalue > 0.001
