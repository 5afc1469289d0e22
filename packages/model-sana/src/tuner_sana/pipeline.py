"""Sana's sampling pipeline around the live denoiser."""

from __future__ import annotations

from typing import Any

from diffusers import SanaPipeline

from tuner.types import Components, Conditioning, Sampler


def create_sampler(components: Components) -> Sampler:
    """Wrap denoiser, codec and scheduler; prompts arrive as conditionings."""
    pipeline = SanaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=components.codec.module if components.codec else None,
        transformer=components.denoiser,
        scheduler=components.scheduler,
    )
    return Sampler(pipeline, pipeline_arguments)


def pipeline_arguments(positive: Conditioning, negative: Conditioning | None) -> dict[str, Any]:
    """Return the pipeline's keyword arguments. Sizes are taken as they are, not moved to the nearest published one."""
    arguments: dict[str, Any] = {"use_resolution_binning": False, "negative_prompt": None, **positive}
    if negative is not None:
        arguments.update({f"negative_{name}": tensor for name, tensor in negative.items()})
    return arguments
