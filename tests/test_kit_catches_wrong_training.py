"""The conformance kit catches what would make training go wrong."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

# Name -> the mistake, and the proof that fails.
BROKEN: dict[str, tuple[str, str]] = {
    "a_block_without_gradient": (
        """
        @hookimpl
        def compute_loss(components, batch):
            block = components.denoiser.transformer_blocks[0]
            handle = block.register_forward_hook(lambda module, inputs, output: output.detach())
            try:
                return sound.compute_loss(components, batch)
            finally:
                handle.remove()
        """,
        "test_whatever_matters_gets_a_gradient",
    ),
    "checkpointing_changes_the_velocity": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            factor = 1.001 if components.denoiser.is_gradient_checkpointing else 1
            return replace(prediction, velocity=prediction.velocity * factor)
        """,
        "test_gradient_checkpointing_is_exact",
    ),
    "time_rounded_to_bfloat16": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, sigma=batch.sigma.to(batch.x.dtype).float()))
        """,
        "test_time_keeps_the_precision_of_float32",
    ),
    "auxiliary_loss_without_gradient": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            return replace(prediction, auxiliary={"size": prediction.velocity.square().mean().detach()})
        """,
        "test_auxiliary_losses_are_learnt_from",
    ),
    "auxiliary_loss_twice_under_checkpointing": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            times = 2 if components.denoiser.is_gradient_checkpointing else 1
            return replace(prediction, auxiliary={"size": times * prediction.velocity.square().mean()})
        """,
        "test_auxiliary_losses_bear_gradient_checkpointing",
    ),
    "auxiliary_loss_of_all_that_was_asked": (
        """
        asked = []

        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            size = prediction.velocity.square().mean()
            earlier = sum(asked)
            asked.append(size.detach())
            return replace(prediction, auxiliary={"size": size + earlier})
        """,
        "test_auxiliary_losses_ignore_the_base_models_pass",
    ),
    "forgets_the_scale_of_tiles": (
        """
        class Codec(ScaledCodec):
            def encode(self, pixels_BCHW):
                return super().encode(pixels_BCHW) / (self.codec.scale if self.module.use_tiling else 1)

        @hookimpl
        def load_components(request):
            components = sound.load_components(request)
            if components.codec is not None:
                components.codec = Codec(components.codec)
            return components
        """,
        "test_tiles_are_nearly_the_whole",
    ),
    "uses_a_weight_outside_of_the_network": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            weight = components.denoiser.transformer_blocks[0].attn1.to_q.weight
            return replace(prediction, velocity=prediction.velocity + 0 * weight.sum())
        """,
        "test_a_shared_out_denoiser_learns_the_same",
    ),
    "answers_by_how_often_it_was_asked": (
        """
        @hookimpl
        def compute_loss(components, batch):
            denoiser, prediction = components.denoiser, sound.compute_loss(components, batch)
            if denoiser.training:
                denoiser.asked = getattr(denoiser, "asked", 0) + 1
            return replace(prediction, velocity=prediction.velocity * (1 + 1e-4 * getattr(denoiser, "asked", 0)))
        """,
        "test_stopping_and_going_on_changes_nothing",
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_it_is_caught(kit, mistake):
    code, proof = BROKEN[mistake]
    assert kit.run_with(mistake, code, proof).failed == {proof}
