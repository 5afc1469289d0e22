"""Prompts to conditioning, by the pipeline's own code, so that training and sampling cannot drift apart.

Legend: B batch, N layers of Llama, L text tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import HiDreamImagePipeline
from torch import Tensor

from tuner.types import Components, Conditioning, Role


def encode_hidream_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with the four text encoders, each cut or padded to 128 tokens. The role makes no difference.

    Returns:
        `prompt_embeds_t5` (B, 128, D), padding included; `prompt_embeds_llama3` (B, N, 128, D), what each of Llama's
        N layers gives; and `pooled_prompt_embeds` (B, D), CLIP-L's features before CLIP-G's. Each is in the dtype
        of its encoder.
    """
    pipeline = HiDreamImagePipeline(
        **components.text_encoders, **components.tokenizers, vae=None, transformer=None, scheduler=None
    )
    t5_BLD, _, llama_NBLD, _, pooled_BD, _ = pipeline.encode_prompt(
        list(prompts),
        do_classifier_free_guidance=False,
        device=components.text_encoders["text_encoder"].device,
    )
    return {
        "prompt_embeds_t5": t5_BLD,
        # Batch-first in the cache; the network wants the layers first.
        "prompt_embeds_llama3": llama_NBLD.transpose(0, 1).contiguous(),
        "pooled_prompt_embeds": pooled_BD,
    }


def network_arguments(conditioning: Conditioning, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the text arguments of the network for a conditioning of B rows."""
    return {
        "encoder_hidden_states_t5": conditioning["prompt_embeds_t5"].to(dtype),
        "encoder_hidden_states_llama3": conditioning["prompt_embeds_llama3"].to(dtype).transpose(0, 1),
        "pooled_embeds": conditioning["pooled_prompt_embeds"].to(dtype),
    }


def pipeline_embeds(conditioning: Conditioning) -> dict[str, Tensor]:
    """Return the prompt arguments of the pipeline for a conditioning of B rows."""
    return {**conditioning, "prompt_embeds_llama3": conditioning["prompt_embeds_llama3"].transpose(0, 1)}
