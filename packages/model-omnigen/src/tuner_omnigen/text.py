"""Prompts to token ids, by the pipeline's own code. OmniGen has no text encoder: its transformer embeds tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.omnigen.processor_omnigen import OmniGenMultiModalProcessor
from torch.nn.utils.rnn import pad_sequence

from tuner.types import Components, Conditioning, Role
from tuner_omnigen.facts import ADVISED_TOKENS, PADDING

logger = logging.getLogger(__name__)


class PromptProcessor(OmniGenMultiModalProcessor):
    """The pipeline's processor of prompts, without the transforms of input pictures, which need torchvision."""

    def __init__(self, tokenizer: Any) -> None:
        self.text_tokenizer = tokenizer

    def token_ids(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt inside OmniGen's template, uncut."""
        return self.process_multi_modal_prompt(prompt, None)["input_ids"]


def encode_omnigen_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Turn prompts into token ids inside OmniGen's template.

    The template stays when a caption is dropped, so that the unconditional role is the empty prompt: what is
    trained on dropped captions is what sampling steers away from when the negative prompt is empty.

    Returns:
        `input_ids` (B, L), int64; shorter rows end with `PADDING`.
    """
    processor = PromptProcessor(components.tokenizers["tokenizer"])
    rows = [processor.token_ids("" if role == "unconditional" else prompt) for prompt in prompts]
    template = len(processor.token_ids(""))
    for prompt, row in zip(prompts, rows, strict=True):
        if (tokens := len(row) - template) > ADVISED_TOKENS:
            logger.warning(
                "a %s of %d tokens is not cut, but OmniGen is said to follow only about %d: %.60r",
                role, tokens, ADVISED_TOKENS, prompt,
            )  # fmt: skip
    return {
        "input_ids": pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PADDING),
    }
