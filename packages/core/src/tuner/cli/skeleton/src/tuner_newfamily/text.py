"""Prompts to NewFamily's conditioning."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.errors import PluginError
from tuner.types import Components, Conditioning, Role


def encode_newfamily_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with the text encoders of `components`, best by the diffusers pipeline's own `encode_prompt`.

    Returns:
        Tensors by name, whose first dimension is `len(prompts)` and whose others are the same for all prompts.
    """
    raise PluginError(f"{__file__} is still to be written\n    -> return the tensors that prompts become")
