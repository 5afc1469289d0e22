"""Which sigmas the settings draw: every density, the shifts, and lists."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats
from scipy.interpolate import PchipInterpolator

from tuner.config.flow import FlowConfig
from tuner.flow import AutoShift, CubicDensity
from tuner.randomness import generator

COUNT = 20_000
KNOTS = [(0, 1), (2, 0), (1, 3, 1), (0, 1, 0.1, 2, 0), (1, 1, 1), (0, 0, 5, 0), (4, 3.9, 0.2, 0.1, 3)]


def draws(tokens=256, positions=False, **settings):
    """Sigmas that a configuration draws, without shift unless one is given."""
    schedule = FlowConfig(**{"flow_schedule_shift": 0, **settings}).schedule(AutoShift())
    return np.array(
        [schedule.draw(generator(0, "sigma", step), tokens, step if positions else 0) for step in range(COUNT)]
    )


def shifted(distribution, shift):
    """Cumulative distribution after the shift, by inverting it: sigma = s * u / (1 + (s - 1) * u)."""
    return lambda sigma: distribution(sigma / (shift - (shift - 1) * sigma))


def logit_normal(scale):
    return lambda sigma: stats.norm(0, scale).cdf(np.log(sigma / (1 - sigma)))


DENSITIES = {
    "logit-normal": ({"flow_sigmoid_scale": 0.7}, logit_normal(0.7)),
    "uniform": ({"flow_use_uniform_schedule": True}, stats.uniform.cdf),
    "beta": (
        {"flow_use_beta_schedule": True, "flow_beta_schedule_alpha": 1.5, "flow_beta_schedule_beta": 4},
        stats.beta(1.5, 4).cdf,
    ),
    "line": ({"flow_cubic_schedule_weights": "0, 1"}, np.square),
}
"""Settings and the cumulative distribution that they mean."""


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize(
    ("shifts", "tokens", "shift"),
    [
        ({}, 256, 1),
        ({"flow_schedule_shift": 3}, 256, 3),
        ({"flow_schedule_shift": 0.4}, 256, 0.4),
        ({"flow_schedule_shift": 9, "flow_schedule_auto_shift": True}, 1024, AutoShift().shift(1024)),
        ({"flow_schedule_shift": 9, "flow_schedule_auto_shift": True}, 4096, AutoShift().shift(4096)),
    ],
)
def test_every_density_and_shift(name, shifts, tokens, shift):
    settings, distribution = DENSITIES[name]
    drawn = draws(tokens, **settings, **shifts)
    assert stats.kstest(drawn, shifted(distribution, shift)).pvalue > 0.01
    assert stats.kstest(drawn, shifted(distribution, shift * 1.1)).pvalue < 0.01


@pytest.mark.parametrize("knots", KNOTS)
def test_a_cubic_density_is_the_monotone_interpolant_of_its_knots(knots):
    places = np.linspace(0, 1, 401)
    expected = PchipInterpolator(np.linspace(0, 1, len(knots)), knots)(places)
    ours = [CubicDensity(tuple(map(float, knots))).at(place) for place in places]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * max(knots))


@pytest.mark.parametrize("knots", KNOTS)
def test_draws_of_a_cubic_density(knots):
    antiderivative = PchipInterpolator(np.linspace(0, 1, len(knots)), knots).antiderivative()
    drawn = draws(flow_cubic_schedule_weights=knots)
    assert stats.kstest(drawn, lambda sigma: antiderivative(sigma) / antiderivative(1)).pvalue > 0.01


def test_one_knot_is_uniform():
    assert stats.kstest(draws(flow_cubic_schedule_weights=[4]), stats.uniform.cdf).pvalue > 0.01


@pytest.mark.parametrize("knots", [[1, -1], [0, 0], [0], "1,x"])
def test_what_is_no_density_is_refused(knots):
    with pytest.raises(ValidationError):
        FlowConfig(flow_cubic_schedule_weights=knots)


@pytest.mark.parametrize("spelling", ["0,1,0.5", "[0, 1, 0.5]", [0, "1", 0.5]])
def test_lists_are_read_in_every_spelling(spelling):
    assert FlowConfig(flow_cubic_schedule_weights=spelling).flow_cubic_schedule_weights == (0, 1, 0.5)
    assert FlowConfig(flow_custom_timesteps=spelling).flow_custom_timesteps == (0, 1, 0.5)


def test_a_list_is_drawn_from_evenly_and_never_shifted():
    drawn = draws(flow_custom_timesteps=[100, 250, 1000], flow_schedule_shift=3)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0.1, 0.25, 1.0]
    assert stats.chisquare(counts).pvalue > 0.01


def test_round_robin_takes_a_list_in_turn():
    drawn = draws(positions=True, flow_custom_timesteps="0.2,0.9,0.5", flow_timesteps_mode="round-robin")
    assert drawn.tolist() == ([0.2, 0.9, 0.5] * (COUNT // 3 + 1))[:COUNT]
