"""OmniGen's twin: every kind of layer of the real architecture, small enough for a CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, OmniGenTransformer2DModel

from tuner.family.tokenizers import llama_tokenizer
from tuner.family.twins import autoencoder_kl, save_twin
from tuner.randomness import seeded_torch
from tuner_omnigen.pipeline import OmniGenPipeline
from tuner_omnigen.text import PromptProcessor


def write_twin(folder: Path) -> Path:
    """Write the twin to `folder`, which is absent or empty, and return it.

    Raises:
        TunerError: The folder holds something already.
    """
    tokenizer = twin_tokenizer()
    with seeded_torch(0, "omnigen twin"), torch.no_grad():
        pipeline = OmniGenPipeline(
            tokenizer=tokenizer,
            vae=autoencoder_kl(4, 0.13025),
            transformer=twin_transformer(len(tokenizer)),
            # Its clock, too, runs from 0 at noise to 1 at the picture.
            scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        )
    return save_twin(pipeline, folder)


def twin_tokenizer() -> Any:
    """A Llama tokenizer in which the template's marks and words are tokens of their own."""
    template = PromptProcessor(None).add_prefix_instruction("")
    marks = list(dict.fromkeys(re.findall(r"<\|\w+\|>", template)))
    tokenizer = llama_tokenizer(re.findall("[a-z]+", template, re.IGNORECASE))
    tokenizer.add_tokens(marks, special_tokens=True)
    return tokenizer


def twin_transformer(vocabulary: int) -> OmniGenTransformer2DModel:
    """OmniGen's transformer with 2 layers of width 64, for pictures of up to 512 pixels a side."""
    transformer = OmniGenTransformer2DModel(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=128,
        num_layers=2,
        pad_token_id=2,
        vocab_size=vocabulary,
        rope_scaling={"type": "su", "short_factor": [1.0] * 8, "long_factor": [1.0 + place / 8 for place in range(8)]},
        pos_embed_max_size=32,
        time_step_dim=32,
    )
    # At random weights a time between 0 and 1 is hardly heard: what hears it is made louder.
    transformer.t_embedder.linear_1.weight *= 8
    transformer.norm_out.linear.weight *= 2
    return transformer
