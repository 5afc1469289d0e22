"""The data sheet of the Cosmos2 family. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tuner.types import FamilyFacts, FamilyOptions, Flavour, Usage
from tuner_cosmos2.original import ORIGINAL_LAYERS

TEXT_TOKENS = 512
"""Length of every text embedding. The network gets no mask: what lies beyond the prompt is zero."""

_STRIDE = 8


class Cosmos2Options(FamilyOptions):
    """Settings that only Cosmos2 has."""

    cosmos2_sample_without_guardrail: bool = Field(
        default=False,
        description=(
            "Make pictures without NVIDIA's guardrail (package cosmos_guardrail). That turns off the check of prompts "
            "for unsafe content, the check of pictures for it, and the blurring of faces. The weights' licence, the "
            "NVIDIA Open Model License, ends for those who bypass the guardrail without a substitute of their own: "
            "whoever sets this answers for that. Training itself never needs it."
        ),
    )


def side_limit(config: Mapping[str, Any]) -> int:
    """Return the longest side of a picture in pixels: positions are tabled up to `max_size`.

    Args:
        config: The transformer's config.json.
    """
    tokens = [size // patch for size, patch in zip(config["max_size"], config["patch_size"], strict=True)]
    # Rotary positions share one table for all axes; learnt ones have a table for each.
    longest = min(tokens[1:]) if config.get("extra_pos_embed_type") else max(tokens)
    return int(longest * config["patch_size"][1] * _STRIDE)


def cosmos2() -> FamilyFacts:
    """Return the facts of Cosmos Predict2 Text2Image."""
    return FamilyFacts(
        name="cosmos2",
        title="Cosmos Predict2 Text2Image",
        flavours={
            "2b": Flavour("nvidia/Cosmos-Predict2-2B-Text2Image"),
            "14b": Flavour("nvidia/Cosmos-Predict2-14B-Text2Image", "needs far more memory"),
        },
        default_flavour="2b",
        latent_channels=16,
        latent_stride=_STRIDE,
        patch_size=2,
        pixel_alignment=16,
        token_limit=TEXT_TOKENS,
        adapter_targets=("to_q", "to_k", "to_v", "to_out.0"),
        part_folders={
            "text_encoders": ("text_encoder", "tokenizer"),
            "codec": ("vae",),
            "denoiser": ("transformer",),
            # The guardrail reads prompts, which reach the sampler as token ids.
            "scheduler": ("scheduler", "tokenizer"),
        },
        licence="other (NVIDIA Open Model License)",
        class_aliases={"Attention": ("Attention",), "FeedForward": ("FeedForward",)},
        side_limit=side_limit,
        options=Cosmos2Options,
        text_options=(),
        original_layers=ORIGINAL_LAYERS,
        advice={
            "learning_rate": "Upstream's claim: 6e-5 for an adapter with adamw_bf16.",
            "memory": "Upstream's claim: at least 24 GB, with gradient checkpointing and batches of 1.",
            "precision": "Never quantise it.",
            "resolution": "Upstream's claim: begin at 512 px and go on with higher resolutions.",
            "schedule": "Upstream's claim: flow_schedule_auto_shift helps with several resolutions.",
            "guardrail": "Validation pictures need the package cosmos_guardrail; training does not.",
        },
        usage=Usage("Cosmos2TextToImagePipeline", packages=("cosmos_guardrail",)),
    )
