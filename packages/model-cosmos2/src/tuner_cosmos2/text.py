"""Prompts to conditioning, by the pipeline's own code, so that training and sampling cannot drift apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import Cosmos2TextToImagePipeline

from tuner.types import Components, Conditioning, Role
from tuner_cosmos2.facts import TEXT_TOKENS
from tuner_cosmos2.guardrail import Unchecked


def encode_cosmos2_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with T5; captions, negative and empty prompts alike.

    Returns:
        `prompt_embeds` (B, 512, D) in the encoder's dtype, zero beyond the prompt, and `prompt_ids` (B, 512): the
        tokens, from which the guardrail reads the prompt when a picture is made.
    """
    tokenizer, encoder = components.tokenizers["tokenizer"], components.text_encoders["text_encoder"]
    # Nothing is sampled here.
    pipeline: Any = Cosmos2TextToImagePipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        transformer=None,
        vae=None,
        scheduler=None,
        safety_checker=Unchecked(),
    )
    embeds_BLD, _ = pipeline.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, device=encoder.device, max_sequence_length=TEXT_TOKENS
    )
    ids_BL = tokenizer(
        list(prompts), padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return {"prompt_embeds": embeds_BLD, "prompt_ids": ids_BL.to(embeds_BLD.device)}
