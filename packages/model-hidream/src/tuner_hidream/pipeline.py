"""HiDream's sampling pipeline around the live denoiser."""

from __future__ import annotations

import math
from typing import Any

from diffusers import HiDreamImagePipeline

from tuner.types import Components, Conditioning, Sampler
from tuner_hidream.text import pipeline_embeds


class ExactSizePipeline(HiDreamImagePipeline):
    """The pipeline of diffusers, but pictures get the size asked for instead of one of about a megapixel."""

    def __call__(self, *args: Any, height: int, width: int, **kwargs: Any) -> Any:
        """Sample as HiDreamImagePipeline does; height and width are in pixels, multiples of 16."""
        # Every request is scaled to the area of this size, then rounded down: a hair more than exact undoes both.
        self.default_sample_size = math.sqrt(height * width) / self.vae_scale_factor * (1 + 1e-9)
        return super().__call__(*args, height=height, width=width, **kwargs)


def create_sampler(components: Components) -> Sampler:
    """Wrap denoiser, codec and scheduler; prompts arrive as conditionings."""
    absent = {f"{kind}{number}": None for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3", "_4")}
    pipeline = ExactSizePipeline(
        **absent,
        vae=components.codec.module if components.codec else None,
        transformer=components.denoiser,
        scheduler=components.scheduler,
    )
    return Sampler(pipeline, pipeline_arguments)


def pipeline_arguments(positive: Conditioning, negative: Conditioning | None) -> dict[str, Any]:
    """Return the pipeline's keyword arguments."""
    arguments: dict[str, Any] = dict(pipeline_embeds(positive))
    if negative is not None:
        arguments.update({f"negative_{name}": tensor for name, tensor in pipeline_embeds(negative).items()})
    return arguments
