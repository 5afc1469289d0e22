"""OmniGen's sampling pipeline around the live denoiser."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tuner.types import Components, Conditioning, Guidance, Sampler
from tuner_omnigen.facts import PADDING
from tuner_omnigen.velocity import lay_out

PIXELS_PER_TOKEN = 16
"""Along each side: 8 per latent cell, 2 cells per token. The pipeline has it fixed, too."""


class TokenProcessor:
    """Takes the place of the pipeline's processor of prompts: the prompts are token ids already.

    Rows of different length in one call get the positions of training, where diffusers' own processor gives
    all rows those of the first, and needs torchvision even for text.
    """

    max_image_size = 1024
    """The pipeline compares it with the largest input picture; there are none."""

    def __call__(
        self,
        prompts: list[tuple[Tensor, Tensor]],
        input_images: None,
        *,
        height: int,
        width: int,
        num_images_per_prompt: int,
        **_: Any,
    ) -> dict[str, Any]:
        """Lay out all prompts, then all negative prompts.

        Args:
            prompts: Token ids of each prompt and of its negative prompt, one row each.
            input_images: Not used: prompts are text only.
            height: Of the picture, in pixels.
            width: Likewise.
            num_images_per_prompt: How often each prompt is drawn.
        """
        rows = [pair[side] for side in (0, 1) for pair in prompts for _ in range(num_images_per_prompt)]
        input_ids_BL = pad_sequence([row[row != PADDING] for row in rows], batch_first=True, padding_value=PADDING)
        tokens = (height // PIXELS_PER_TOKEN) * (width // PIXELS_PER_TOKEN)
        return {**lay_out(input_ids_BL, tokens), "input_pixel_values": [], "input_image_sizes": {}}


class OmniGenPipeline(diffusers.OmniGenPipeline):
    """diffusers' pipeline for prompts that are token ids. It has its parent's name, which `model_index.json` keeps."""

    def __init__(self, transformer: Any, scheduler: Any, vae: Any, tokenizer: Any) -> None:
        # Not the parent's constructor, which needs torchvision.
        DiffusionPipeline.__init__(self)
        self.register_modules(vae=vae, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler)
        self.vae_scale_factor = 8
        self.image_processor = VaeImageProcessor(vae_scale_factor=PIXELS_PER_TOKEN)
        self.multimodal_processor = TokenProcessor()
        self.default_sample_size = 128


def create_sampler(components: Components) -> Sampler:
    """Wrap denoiser, codec and scheduler; prompts arrive as conditionings."""
    pipeline = OmniGenPipeline(
        transformer=components.denoiser,
        scheduler=components.scheduler,
        vae=components.codec.module if components.codec else None,
        tokenizer=None,
    )
    return Sampler(pipeline, pipeline_arguments, guidance=Guidance("prompt_first"))


def pipeline_arguments(positive: Conditioning, negative: Conditioning | None) -> dict[str, Any]:
    """Return the pipeline's keyword arguments: pairs of token ids in the place of prompts.

    The pipeline always asks about a negative prompt too. Where there is none, the prompt stands in for it, so that
    any guidance leaves the prompt's own prediction as it is.
    """
    against = positive if negative is None else negative
    return {"prompt": list(zip(positive["input_ids"], against["input_ids"], strict=True))}
