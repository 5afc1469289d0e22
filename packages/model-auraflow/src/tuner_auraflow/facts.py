"""The data sheet of the AuraFlow family. Imports no torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from tuner.types import TORCH_ATTENTION, FamilyFacts, FamilyOptions, Flavour, PromptLimit, Usage
from tuner_auraflow.original import ORIGINAL_LAYERS

logger = logging.getLogger("tuner.auraflow")

TOKENS = 120
"""Longest prompt that versions 0.1 to 0.3 were trained with."""

PONY_TOKENS = 768
"""Tokens that the flavour pony was trained with."""

LATENT_STRIDE = 8


class AuraFlowOptions(FamilyOptions):
    """Settings that only AuraFlow has."""

    auraflow_token_limit: int = Field(
        default=TOKENS,
        ge=1,
        description="Longest prompt in tokens that the weights were trained with: 120, and 768 for the flavour pony.",
    )
    tokenizer_max_length: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Tokens to which prompts are cut or padded; auraflow_token_limit if not given. Higher values are lowered "
            "to auraflow_token_limit: raise that one too where they are meant."
        ),
    )

    @field_validator("tokenizer_max_length")
    @classmethod
    def _clamp(cls, value: int | None, info: ValidationInfo) -> int | None:
        """Lower the value here, so that caches and records hold the number that counts."""
        limit = info.data.get("auraflow_token_limit")  # absent where it was refused itself
        if value is None or limit is None or value <= limit:
            return value
        logger.warning(
            "tokenizer_max_length %d is lowered to %d, the longest prompt that the weights know; "
            "if they know longer ones, as those of pony do, set auraflow_token_limit",
            value,
            limit,
        )
        return limit

    @property
    def tokens(self) -> int:
        """Tokens to which prompts are cut or padded."""
        return self.tokenizer_max_length or self.auraflow_token_limit


def side_limit(denoiser: Mapping[str, Any]) -> int:
    """Return the longest side of a picture in pixels: the network has a square table of learnt positions."""
    patches = math.isqrt(int(denoiser["pos_embed_max_size"]))
    return patches * int(denoiser["patch_size"]) * LATENT_STRIDE


def prompt_limits(options: AuraFlowOptions) -> tuple[PromptLimit, ...]:
    """Return the tokens that the options allow."""
    return (PromptLimit("tokenizer", options.tokens),)


def call_arguments(options: AuraFlowOptions) -> dict[str, Any]:
    """Return what the pipeline must be told to read prompts as training does."""
    return {"max_sequence_length": options.tokens}


def auraflow() -> FamilyFacts:
    """Return the facts of AuraFlow 0.1 to 0.3 and of Pony 7, which is built on it."""
    return FamilyFacts(
        name="auraflow",
        title="AuraFlow",
        flavours={
            "v0.3": Flavour("terminusresearch/auraflow-v0.3"),
            "v0.2": Flavour("fal/AuraFlow-v0.2"),
            "v0.1": Flavour("fal/AuraFlow"),
            "pony": Flavour(
                "purplesmartai/pony-v7-base",
                "prompts of up to 768 tokens",
                setting_defaults={"auraflow_token_limit": PONY_TOKENS},
                licence="other (its own licence)",
            ),
        },
        default_flavour="v0.3",
        latent_channels=4,
        latent_stride=LATENT_STRIDE,
        patch_size=2,
        pixel_alignment=64,
        token_limit=TOKENS,
        adapter_targets=(
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        part_folders={
            "text_encoders": ("text_encoder", "tokenizer"),
            "codec": ("vae",),
            "denoiser": ("transformer",),
            "scheduler": ("scheduler",),
        },
        licence="apache-2.0 (pony: its own licence)",
        class_aliases={"Attention": ("Attention",), "FeedForward": ("AuraFlowFeedForward",)},
        side_limit=side_limit,
        prompt_limits=prompt_limits,
        tiny_autoencoder="madebyollin/taesdxl",
        options=AuraFlowOptions,
        inert_settings={"attention_mechanism": TORCH_ATTENTION},
        original_layers=ORIGINAL_LAYERS,
        advice={
            "learning_rate": (
                "Upstream's claim: LoKr 1e-4 with AdamW, 2e-5 with Lion; smaller ranks take higher rates. "
                "Pony's author prefers adamw_bf16."
            ),
            "memory": "Upstream's claim: 20 to 22 GB at least, with an int8 base and batches of 1.",
            "precision": "Upstream's claim: the base bears int8 well, and int4 still; int8 is the better choice.",
            "sizes": "Sides are limited by the table of positions; whether several sizes at once help is doubtful.",
            "steps": "Upstream's claim: sampling is slow, training is not; 20 to 30 steps, guidance 2 to 3.5.",
            "prompts": f"Versions 0.1 to 0.3 know prompts of up to {TOKENS} tokens; longer ones are cut.",
        },
        usage=Usage("AuraFlowPipeline", call=call_arguments),
    )
