"""Cosmos2's sampling pipeline around the live denoiser."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Cosmos2TextToImagePipeline

from tuner.family.loading import load_tokenizer
from tuner.types import ComponentRequest, Components, Conditioning, Guidance, Sampler
from tuner_cosmos2.guardrail import Guardrail, GuardrailError, create_guardrail


def create_sampler(components: Components) -> Sampler:
    """Wrap denoiser, codec and scheduler; prompts arrive as conditionings.

    Raises:
        GuardrailError: The guardrail is needed, and not installed or broken.
    """
    guardrail = create_guardrail(components)
    pipeline = Cosmos2TextToImagePipeline(
        tokenizer=None,
        text_encoder=None,
        vae=components.codec.module if components.codec else None,
        transformer=components.denoiser,
        scheduler=components.scheduler,
        safety_checker=guardrail,
    )

    def arguments(positive: Conditioning, negative: Conditioning | None) -> dict[str, Any]:
        # The pipeline checks prompts that are text, and none that are encoded already.
        if isinstance(guardrail, Guardrail):
            _check_prompts(guardrail, components, positive)
        given = {"prompt_embeds": positive["prompt_embeds"]}
        return given if negative is None else {**given, "negative_prompt_embeds": negative["prompt_embeds"]}

    return Sampler(pipeline, arguments, guidance=Guidance("two_calls", neutral_scale=0.0))


def _check_prompts(guardrail: Guardrail, components: Components, conditioning: Conditioning) -> None:
    """Let the guardrail read the prompts as the model's tokenizer has read them.

    Raises:
        GuardrailError: The guardrail refuses one.
    """
    device = conditioning["prompt_embeds"].device
    request = ComponentRequest(components.folder, frozenset(), torch.float32, device, components.options)
    prompts = load_tokenizer(request).batch_decode(conditioning["prompt_ids"], skip_special_tokens=True)
    guardrail.to(device)
    try:
        refused = [prompt for prompt in prompts if not guardrail.check_text_safety(prompt)]
    finally:
        guardrail.to("cpu")
    if refused:
        raise GuardrailError(f"the guardrail refuses the prompt {refused[0]!r}\n    -> use another prompt for pictures")
