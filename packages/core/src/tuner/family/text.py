"""What families have in common when they encode prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger(__name__)


def warn_of_cuts(tokenizer: Any, prompts: Sequence[str], limit: int) -> None:
    """Warn of prompts that have more than `limit` tokens, special ones included: what is beyond is lost."""
    lengths = [len(ids) for ids in tokenizer(list(prompts)).input_ids]
    for prompt, length in zip(prompts, lengths, strict=True):
        if length > limit:
            start = prompt if len(prompt) <= 60 else f"{prompt[:60]}..."
            logger.warning("a prompt of %d tokens is cut to %d: %r", length, limit, start)
