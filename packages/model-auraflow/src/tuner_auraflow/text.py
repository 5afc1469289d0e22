"""Prompts to conditioning, by the pipeline's own code, so that training and sampling cannot drift apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import AuraFlowPipeline

from tuner.family.text import warn_of_cuts
from tuner.types import Components, Conditioning, Role


def encode_auraflow_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with UMT5, cut or padded to the tokens that the options say. The role makes no difference.

    Returns:
        `prompt_embeds` (B, L, D) in the encoder's dtype, zero on padding. The network gets no mask: that padding is
        zero is all that it knows of it.
    """
    options: Any = components.options
    encoder: Any = components.text_encoders["text_encoder"]
    tokenizer = components.tokenizers["tokenizer"]
    warn_of_cuts(tokenizer, prompts, options.tokens)
    pipeline = AuraFlowPipeline(tokenizer=tokenizer, text_encoder=encoder, vae=None, transformer=None, scheduler=None)
    embeds_BLD, *_ = pipeline.encode_prompt(
        list(prompts),
        do_classifier_free_guidance=False,
        device=encoder.device,
        max_sequence_length=options.tokens,
    )
    return {"prompt_embeds": embeds_BLD}
