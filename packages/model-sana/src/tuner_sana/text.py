"""Prompts to conditioning, by the pipeline's own code, so that training and sampling cannot drift apart."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from diffusers import SanaPipeline

from tuner.types import Components, Conditioning, Role
from tuner_sana.facts import SanaOptions


def encode_sana_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with Gemma 2.

    Captions are put behind the complex human instruction; the first token and the last 299 of what Gemma gives
    are kept. Negative and empty prompts stand alone. All are cut or padded (on the right) to 300 tokens.

    Returns:
        `prompt_embeds` (B, 300, D) in the encoder's dtype and `prompt_attention_mask` (B, 300), 1 on tokens.
    """
    options: Any = components.options
    encoder: Any = components.text_encoders["text_encoder"]
    pipeline = SanaPipeline(
        tokenizer=components.tokenizers["tokenizer"], text_encoder=encoder, vae=None, transformer=None, scheduler=None
    )
    embeds_BLD, mask_BL, _, _ = pipeline.encode_prompt(
        list(prompts),
        do_classifier_free_guidance=False,
        device=encoder.device,
        complex_human_instruction=instruction(options) if role == "caption" else None,
    )
    return {"prompt_embeds": embeds_BLD, "prompt_attention_mask": mask_BL}


def instruction(options: SanaOptions) -> list[str]:
    """Return the lines of the complex human instruction; none if it is switched off.

    Unless the options give one, it is the default of the installed pipeline, which is the published one.
    """
    if options.sana_complex_human_instruction is not None:
        return list(options.sana_complex_human_instruction)
    return list(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)
