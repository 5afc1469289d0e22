"""Guidance: how the pipeline combines the two prompts' velocities is what the family says, so it can be rescaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tuner.randomness import normal_tensor
from tuner.testing.convention import Convention, answering
from tuner.testing.family import LONG_PROMPT, NEGATIVE_PROMPT, FamilyUnderTest, relative_error
from tuner.types import Sampler
from tuner.validation.rescaling import rescaled_guidance

STEPS = 3
SCALE = 4.0
SETTING = "validation_guidance_rescale"


@pytest.fixture(scope="module")
def convention(family: FamilyUnderTest) -> Convention:
    """How the family's `compute_loss` speaks to its network."""
    return Convention.of(family)


@dataclass(frozen=True)
class Call:
    """One call of the network while a guided picture is sampled.

    Attributes:
        asked: What each row asks about: 0 the prompt, 1 the negative prompt.
        a: The velocity is a * raw + b * x.
        b: See `a`.
    """

    asked: tuple[int, ...]
    a: float
    b: float


@pytest.fixture(scope="module")
def calls(family: FamilyUnderTest, convention: Convention) -> list[Call]:
    """The network's calls, what they ask about read off the real answers, as `compute_loss` predicts them."""
    real, heard = _denoiser(family).forward, []

    def answer(arguments: Mapping[str, Any]) -> Tensor:
        raw: Tensor = real(**{**arguments, "return_dict": False})[0]
        heard.append((dict(arguments), raw))
        return raw

    with answering(_denoiser(family), answer):
        _sample(family, family.sampler())
    return [_understood(family, convention, arguments, raw) for arguments, raw in heard]


def _understood(family: FamilyUnderTest, convention: Convention, arguments: Mapping[str, Any], raw: Tensor) -> Call:
    x: Tensor = arguments[convention.x_name]
    sigma = convention.sigma_of(float(torch.as_tensor(arguments[convention.time_name]).flatten()[0]))
    a, b = convention.velocity_coefficients(sigma)
    batch = family.batch((sigma,), [LONG_PROMPT])
    asked = []
    for row, output in zip(x.split(1), raw[:, : x.shape[1]].split(1), strict=True):
        conditionings = family.encode([LONG_PROMPT]), family.encode([NEGATIVE_PROMPT], "negative")
        at = [replace(batch, x=row, target=row, conditioning=each) for each in conditionings]
        with torch.no_grad():
            errors = [relative_error(a * output + b * row, family.predict(each).velocity) for each in at]
        assert min(errors) <= 1e-4 < max(errors), f"a row asks about neither prompt, or about both: {errors}"
        asked.append(errors.index(min(errors)))
    return Call(tuple(asked), a, b)


def test_guidance_is_combined_and_rescaled_as_the_family_says(
    family: FamilyUnderTest, convention: Convention, request: pytest.FixtureRequest
) -> None:
    """Lin et al. 2023, equations 15 and 16, computed by hand from what the pipeline makes of two known velocities."""
    if reason := family.facts.inert_settings.get(SETTING):
        assert reason.strip(), f"inert_settings gives no reason why {SETTING} means nothing"
        return
    calls: list[Call] = request.getfixturevalue("calls")
    shape = family.latents(1, family.side, 2 * family.side).shape[1:]
    prompt, negative = (normal_tensor(shape, seed, "velocity") * (1 + seed) for seed in (0, 1))
    neutral = family.sampler().guidance.neutral_scale
    # The pipeline's end is linear in the velocities that it samples with, so three ends show what it makes of two.
    of_prompt, of_negative, of_both = (
        _end(family, convention, calls, fields)
        for fields in ((prompt, prompt), (negative, negative), (prompt, negative))
    )
    apart, moved = (of_prompt - of_negative).double(), (of_both - of_prompt).double()
    strength = float((moved * apart).sum() / apart.square().sum())
    assert strength == pytest.approx(SCALE - neutral, rel=1e-4), (
        f"at scale {SCALE:g} the pipeline makes c + {strength:.3f} * (c - u) of the answers to prompt and negative "
        f"prompt; Sampler.guidance says c + {SCALE - neutral:g} * (c - u)"
    )
    guided = prompt + strength * (prompt - negative)
    for share in (0.0, 0.3, 1.0):
        factor = share * np.std(prompt.numpy()) / np.std(guided.numpy()) + (1 - share)
        wanted = guided * float(factor)
        error = relative_error(
            _end(family, convention, calls, (prompt, negative), share),
            _end(family, convention, calls, (wanted, wanted)),
        )
        assert error <= 1e-4, f"rescaled by {share:g}, the sampled latent is off by {error:.1e}: see Sampler.guidance"


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_without_guidance_each_step_is_one_call(family: FamilyUnderTest, convention: Convention, scale: float) -> None:
    """A scale of at most 1 does not pay for a negative prompt."""
    denoiser = _denoiser(family)
    real, calls = denoiser.forward, []

    def answer(arguments: Mapping[str, Any]) -> Tensor:
        calls.append(arguments[convention.x_name].shape)
        raw: Tensor = real(**{**arguments, "return_dict": False})[0]
        return raw

    sampler, noise = family.sampler(), family.noise(family.latents(1, family.side, family.side).shape)
    with answering(denoiser, answer):
        family.sample(
            sampler, noise, steps=STEPS, guidance=scale, output_type="latent", height=family.side, width=family.side
        )
    assert len(calls) == STEPS


def _end(
    family: FamilyUnderTest,
    convention: Convention,
    calls: list[Call],
    velocities: tuple[Tensor, Tensor],
    share: float = 0.0,
) -> Tensor:
    """Return where the pipeline ends, guided, with constant velocities for prompt and negative prompt."""
    denoiser, sampler, left = _denoiser(family), family.sampler(), iter(calls)

    def answer(arguments: Mapping[str, Any]) -> Tensor:
        call, x = next(left), arguments[convention.x_name]
        raw = x.new_zeros((x.shape[0], convention.channels, *x.shape[2:]))
        wanted = torch.stack([velocities[number] for number in call.asked])
        raw[:, : x.shape[1]] = (wanted - call.b * x) / call.a
        return raw

    with answering(denoiser, answer), rescaled_guidance(denoiser, sampler.guidance, scale=SCALE, share=share):
        return _sample(family, sampler)


def _sample(family: FamilyUnderTest, sampler: Sampler) -> Tensor:
    height, width = family.side, 2 * family.side
    latents: Tensor = family.sample(
        sampler,
        # Small, so that float32 keeps the velocities where samplers work with x0 + s * noise and s goes up to 80.
        0.1 * family.noise(family.latents(1, height, width).shape),
        steps=STEPS,
        guidance=SCALE,
        output_type="latent",
        height=height,
        width=width,
    )
    return latents


def _denoiser(family: FamilyUnderTest) -> nn.Module:
    denoiser = family.components.denoiser
    assert denoiser is not None
    return denoiser
