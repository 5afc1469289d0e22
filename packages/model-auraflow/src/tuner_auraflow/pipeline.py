"""AuraFlow's sampling pipeline around the live denoiser."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AuraFlowPipeline

from tuner.types import Components, Conditioning, Sampler


def create_sampler(components: Components) -> Sampler:
    """Wrap denoiser, codec and scheduler; prompts arrive as conditionings."""
    pipeline = AuraFlowPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=components.codec.module if components.codec else None,
        transformer=components.denoiser,
        scheduler=components.scheduler,
    )
    return Sampler(pipeline, pipeline_arguments)


def pipeline_arguments(positive: Conditioning, negative: Conditioning | None) -> dict[str, Any]:
    """Return the pipeline's keyword arguments."""
    arguments = _embeds("prompt", positive)
    return arguments if negative is None else {**arguments, **_embeds("negative_prompt", negative)}


def _embeds(prefix: str, conditioning: Conditioning) -> dict[str, Any]:
    embeds_BLD = conditioning["prompt_embeds"]
    # The pipeline insists on a mask and makes no use of it.
    mask_BL = torch.ones(embeds_BLD.shape[:2], dtype=torch.long, device=embeds_BLD.device)
    return {f"{prefix}_embeds": embeds_BLD, f"{prefix}_attention_mask": mask_BL}
