"""The oracle test: training and the diffusers pipeline mean the same by x, sigma and the network's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tuner.testing.convention import Convention, answering
from tuner.testing.family import LONG_PROMPT, NEGATIVE_PROMPT, FamilyUnderTest, relative_error
from tuner.testing.oracle import Oracle
from tuner.types import Role


@pytest.fixture(scope="module")
def convention(family: FamilyUnderTest) -> Convention:
    """How the family's `compute_loss` speaks to its network."""
    return Convention.of(family)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_oracle_reproduces_a_chosen_latent(
    family: FamilyUnderTest, convention: Convention, steps: int, guidance: float
) -> None:
    """A network that returns the true velocity leads the pipeline from noise to the latent it belongs to."""
    images, oracle = _sample(family, convention, steps=steps, guidance=guidance, output_type="latent")
    expected = oracle.destination()
    error = relative_error(images.reshape(expected.shape), expected)
    assert error <= 1e-5, (
        f"{steps} steps, guidance {guidance:g}: the sampled latent is off by {error:.1e}, relative to its largest "
        "value. Compare the time argument, the sign of the output and the mixing with the pipeline's."
    )


def test_oracle_reproduces_a_chosen_picture(family: FamilyUnderTest, convention: Convention) -> None:
    """The pipeline decodes the chosen latent to the picture that it was encoded from."""
    codec = family.components.codec
    assert codec is not None
    images, oracle = _sample(family, convention, steps=2, guidance=1.0, output_type="pt")
    with torch.no_grad():
        expected = (codec.decode(oracle.destination().float()) / 2 + 0.5).clamp(0, 1)
    assert images.shape == expected.shape
    levels = images * 255
    in_8_bits = bool(((levels - levels.round()).abs() < 1e-3).all())  # as pipelines with a safety checker give
    error = float((images - expected).abs().max())
    assert error <= (1.01 / 255 if in_8_bits else 1e-4), (
        f"the pipeline's picture is off by {error:.1e}: it scales latents otherwise than the codec of load_components"
    )


@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_pipeline_gets_the_conditioning_of_training(
    family: FamilyUnderTest, convention: Convention, shape: str
) -> None:
    """Asked at the same x and time, the network gives the pipeline what it gives `compute_loss`."""
    denoiser = family.components.denoiser
    assert denoiser is not None
    real = denoiser.forward
    calls: list[tuple[Mapping[str, Any], Tensor]] = []

    def answer(arguments: Mapping[str, Any]) -> Tensor:
        raw: Tensor = real(**{**arguments, "return_dict": False})[0]
        calls.append((dict(arguments), raw))
        return raw

    sampler = family.sampler()
    height, width = family.shapes[shape == "tall"]
    noise = family.noise(family.latents(1, height, width).shape)
    for guidance, prompts in ((1.0, [LONG_PROMPT]), (4.0, [LONG_PROMPT, NEGATIVE_PROMPT])):
        calls.clear()
        with answering(denoiser, answer):
            family.sample(sampler, noise, steps=1, guidance=guidance, output_type="latent", height=height, width=width)
        for prompt in prompts:
            _assert_answered(family, convention, calls, prompt)


def _sample(
    family: FamilyUnderTest, convention: Convention, *, steps: int, guidance: float, output_type: str
) -> tuple[Any, Oracle]:
    height, width = family.side, 2 * family.side
    x0 = family.latents(1, height, width)
    sampler = family.sampler()
    oracle = Oracle(convention, x0, sampler.pipeline.scheduler)
    denoiser = family.components.denoiser
    assert denoiser is not None
    with answering(denoiser, oracle):
        images = family.sample(
            sampler,
            # Small, so that float32 keeps x0 where samplers work with x0 + s * noise and s goes up to 80.
            0.1 * family.noise(x0.shape),
            steps=steps,
            guidance=guidance,
            output_type=output_type,
            height=height,
            width=width,
        )
    return images, oracle


def _assert_answered(
    family: FamilyUnderTest, convention: Convention, calls: list[tuple[Mapping[str, Any], Tensor]], prompt: str
) -> None:
    """Assert that some row of the pipeline's calls got the velocity that `compute_loss` predicts for `prompt`."""
    role: Role = "negative" if prompt == NEGATIVE_PROMPT else "caption"
    batch = family.batch((0.5,), [LONG_PROMPT])
    errors = []
    for arguments, raw in calls:
        time = float(torch.as_tensor(arguments[convention.time_name]).flatten()[0])
        sigma = convention.sigma_of(time)
        a, b = convention.velocity_coefficients(sigma)
        x = arguments[convention.x_name][:1]
        asked = replace(batch, x=x, target=x, sigma=torch.tensor([sigma]), conditioning=family.encode([prompt], role))
        with torch.no_grad():
            expected = family.predict(asked).velocity
        velocities = a * raw[:, : x.shape[1]].double() + b * x.double()
        errors += [relative_error(row[None], expected) for row in velocities]
    assert min(errors) <= 1e-5, (
        f"the pipeline's arguments for {prompt!r} do not give the velocity of compute_loss (off by {min(errors):.1e})"
    )
