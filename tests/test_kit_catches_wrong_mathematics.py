"""The conformance kit catches what makes velocities, latents and pictures wrong."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

ORACLE = "test_oracle_reproduces_a_chosen_latent"
PICTURE = "test_oracle_reproduces_a_chosen_picture"
PROMPTS = "test_pipeline_gets_the_conditioning_of_training"
BATCH = "test_losses_of_a_batch_are_those_of_its_samples"
NOT_SQUARE = "test_pictures_that_are_only_just_not_square"
PADDING = "test_padding_has_no_effect"
RANDOM = "test_no_random_generator_is_read"

# Name -> the mistake, and the proofs that fail among those of sampling, latents, velocity and text.
BROKEN: dict[str, tuple[str, set[str]]] = {
    "velocity_sign_flipped": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            return replace(prediction, velocity=-prediction.velocity)
        """,
        {ORACLE, PICTURE},
    ),
    "time_a_thousandth": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, sigma=batch.sigma / 1000))
        """,
        {ORACLE, PICTURE, PROMPTS},
    ),
    "time_reversed": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, sigma=1 - batch.sigma))
        """,
        {ORACLE, PICTURE},
    ),
    "network_predicts_x0": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            return replace(prediction, velocity=(batch.x - prediction.velocity) / batch.sigma.view(-1, 1, 1, 1))
        """,
        {ORACLE, PICTURE},
    ),
    "latents_halved_in_encode": (
        """
        @hookimpl
        def load_components(request):
            components = sound.load_components(request)
            if components.codec:
                components.codec = ScaledCodec(components.codec, encode=0.5)
            return components
        """,
        {"test_round_trip_is_the_autoencoders"},
    ),
    "latents_halved_both_ways": (
        """
        @hookimpl
        def load_components(request):
            components = sound.load_components(request)
            if components.codec:
                components.codec = ScaledCodec(components.codec, encode=0.5, decode=2.0)
            return components
        """,
        {PICTURE},
    ),
    "reads_the_global_generator": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, x=batch.x + 0 * torch.randn_like(batch.x)))
        """,
        {RANDOM},
    ),
    "attention_mask_dropped": (
        """
        @hookimpl
        def compute_loss(components, batch):
            seen = torch.ones_like(batch.conditioning["prompt_attention_mask"])
            conditioning = {**batch.conditioning, "prompt_attention_mask": seen}
            return sound.compute_loss(components, replace(batch, conditioning=conditioning))
        """,
        {PADDING, PROMPTS},
    ),
    "first_sigma_for_all": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, sigma=batch.sigma[:1].expand_as(batch.sigma)))
        """,
        {BATCH, NOT_SQUARE},
    ),
    "tall_pictures_lie_on_their_side": (
        """
        @hookimpl
        def compute_loss(components, batch):
            if batch.x.shape[-2] <= batch.x.shape[-1]:
                return sound.compute_loss(components, batch)
            prediction = sound.compute_loss(components, replace(batch, x=batch.x.mT))
            return replace(prediction, velocity=prediction.velocity.mT)
        """,
        {PROMPTS},
    ),
    "prompts_swapped_in_the_pipeline": (
        """
        @hookimpl
        def validation_pipeline(components):
            sampler = sound.validation_pipeline(components)
            swap = lambda positive, negative: sampler.arguments(negative or empty(positive), positive)
            return replace(sampler, arguments=swap)

        def empty(conditioning):
            return {**conditioning, "prompt_embeds": conditioning["prompt_embeds"].flip(1)}
        """,
        {PROMPTS},
    ),
}

# The same for single proofs of the pipeline.
WRONG_PIPELINES: dict[str, tuple[str, str]] = {
    "pipeline_copies_the_denoiser": (
        """
        @hookimpl
        def validation_pipeline(components):
            from copy import deepcopy
            return sound.validation_pipeline(replace(components, denoiser=deepcopy(components.denoiser)))
        """,
        "test_pipeline_holds_the_live_denoiser",
    ),
    "guidance_the_other_way_round": (
        """
        from tuner.types import Guidance

        @hookimpl
        def validation_pipeline(components):
            return replace(sound.validation_pipeline(components), guidance=Guidance("prompt_first"))
        """,
        "test_guidance_is_combined_and_rescaled_as_the_family_says",
    ),
    "guidance_of_another_strength": (
        """
        from tuner.types import Guidance

        @hookimpl
        def validation_pipeline(components):
            return replace(sound.validation_pipeline(components), guidance=Guidance(neutral_scale=0.0))
        """,
        "test_guidance_is_combined_and_rescaled_as_the_family_says",
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_it_is_caught(kit, mistake):
    code, expected = BROKEN[mistake]
    outcome = kit.run_with(mistake, code, "test_sampling or test_latents or test_velocity or test_text")
    assert outcome.failed == expected
    assert outcome.passed


@pytest.mark.parametrize("mistake", WRONG_PIPELINES)
def test_it_is_caught_in_the_pipeline(kit, mistake):
    code, proof = WRONG_PIPELINES[mistake]
    assert kit.run_with(mistake, code, proof).failed == {proof}
