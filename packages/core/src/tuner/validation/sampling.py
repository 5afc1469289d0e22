"""Sampling pictures through a family's own diffusers pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tuner.errors import NonFiniteError
from tuner.types import Conditioning, Sampler


def sample_picture(
    sampler: Sampler,
    positive: Conditioning,
    negative: Conditioning | None,
    *,
    width: int,
    height: int,
    steps: int,
    guidance: float,
    seed: int,
) -> Image.Image:
    """Sample one picture.

    Args:
        sampler: The family's pipeline.
        positive: Conditioning of the prompt, one row, on the denoiser's device.
        negative: Conditioning to steer away from; ignored unless guidance exceeds 1.
        width: In pixels, a multiple of what the family needs.
        height: Likewise.
        steps: Sampling steps.
        guidance: Guidance scale; at most 1 runs the denoiser once per step.
        seed: Of the initial noise, which is drawn on the CPU and so is the same on every device.

    Raises:
        NonFiniteError: The picture holds NaN or infinite values.
    """
    arguments: dict[str, Any] = sampler.arguments(positive, negative if guidance > 1 else None)
    arguments[sampler.guidance_argument] = guidance
    sampler.pipeline.set_progress_bar_config(disable=True)
    output = sampler.pipeline(
        **arguments,
        width=width,
        height=height,
        num_inference_steps=steps,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
    )
    pixels_HWC = np.asarray(output.images[0])
    if not np.isfinite(pixels_HWC).all():
        raise NonFiniteError("the sampled picture holds NaN or infinite values")
    return Image.fromarray((pixels_HWC.clip(0, 1) * 255).round().astype(np.uint8))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode without gradients, and back into its mode afterwards.

    Inside, no parameter asks for a gradient, as in a model that was loaded to sample: torch chooses between two orders
    of adding up by that alone, even where none is computed, and pictures could then differ in their last bits.
    """
    was_training, learning = module.training, [value for value in module.parameters() if value.requires_grad]
    module.eval()
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with torch.no_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        module.train(was_training)
