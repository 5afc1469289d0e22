"""Previews: at every step of sampling, the clean latent can be told from what the pipeline gives its scheduler."""

from __future__ import annotations

import pytest
from torch import Tensor

from tuner.testing.convention import Convention, answering
from tuner.testing.family import FamilyUnderTest, relative_error
from tuner.testing.oracle import Oracle
from tuner.validation.estimates import SamplingStep, watching_steps


@pytest.fixture(scope="module")
def convention(family: FamilyUnderTest) -> Convention:
    """How the family's `compute_loss` speaks to its network."""
    return Convention.of(family)


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (7, 4.0)])
def test_every_step_of_an_oracle_sees_the_chosen_latent(
    family: FamilyUnderTest, convention: Convention, steps: int, guidance: float
) -> None:
    """With the true velocity, sample - sigma * velocity is the chosen latent at every step of the pipeline."""
    height, width = family.side, 2 * family.side
    x0 = family.latents(1, height, width)
    sampler = family.sampler()
    scheduler = sampler.pipeline.scheduler
    oracle = Oracle(convention, x0, scheduler)
    seen: list[tuple[int, int, Tensor, float]] = []

    def see(step: SamplingStep) -> None:
        seen.append((step.number, step.steps, step.x0(), step.sigma()))

    assert family.components.denoiser is not None
    # Small noise, so that float32 keeps x0 where samplers work with x0 + s * noise and s goes up to 80.
    noise = 0.1 * family.noise(x0.shape)
    with answering(family.components.denoiser, oracle), watching_steps(scheduler, see):
        family.sample(sampler, noise, steps=steps, guidance=guidance, output_type="latent", height=height, width=width)
    assert [(number, of) for number, of, _, _ in seen] == [(number, steps) for number in range(1, steps + 1)]
    errors = [relative_error(estimate.reshape(x0.shape), x0) for _, _, estimate, _ in seen]
    assert max(errors) <= 1e-5, f"at one of {steps} steps the clean latent is off by {max(errors):.1e}"
    # After each step, the network is asked at the noise level that the step has left.
    left = [sigma for *_, sigma in seen[:-1]]
    assert left == pytest.approx([*dict.fromkeys(oracle.sigmas)][1:], abs=1e-4)


def test_watching_changes_nothing(family: FamilyUnderTest) -> None:
    """Pictures are the same, bit for bit, whether or not somebody looks at the steps."""
    sampler = family.sampler()
    height, width = family.side, 2 * family.side
    noise = family.noise(family.latents(1, height, width).shape)
    estimates: list[Tensor] = []
    results = []
    for every in (1, 100):
        with watching_steps(sampler.pipeline.scheduler, lambda step: estimates.append(step.x0()), every):
            results.append(
                family.sample(sampler, noise, steps=3, guidance=4.0, output_type="latent", height=height, width=width)
            )
    assert len(estimates) == 3
    assert bool((results[0] == results[1]).all())
