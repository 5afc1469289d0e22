"""Models to measure on, by family: the twin as it is, and the twin with a denoiser of about 50 million parameters.

A family joins by an entry in `FAMILIES`: which settings make its mid-size denoiser, and how its denoiser is called as
diffusers documents it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from tuner.cli.twins import write_twin
from tuner.plugins import load_family
from tuner.randomness import seeded_torch

SIDES = {"twin": 8, "mid": 16}
"""Model size -> side of the training pictures in tokens of the denoiser."""

Velocity = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""(denoiser, x, sigma, conditioning) -> velocity."""


@dataclass(frozen=True)
class BenchmarkFamily:
    """What a family brings to the benchmarks.

    Attributes:
        mid: Settings of the denoiser that make the twin's one of about 50 million parameters.
        velocity: Calls the denoiser as diffusers documents it.
    """

    mid: Mapping[str, Any]
    velocity: Velocity


def sana_velocity(denoiser: Any, x: Tensor, sigma: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
    """Call Sana's transformer; its time argument is 1000 * sigma."""
    return denoiser(
        x,
        encoder_hidden_states=conditioning["prompt_embeds"].to(x.dtype),
        encoder_attention_mask=conditioning["prompt_attention_mask"],
        timestep=sigma * 1000,
        return_dict=False,
    )[0]


def auraflow_velocity(denoiser: Any, x: Tensor, sigma: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
    """Call AuraFlow's transformer; its time argument is sigma."""
    embeds = conditioning["prompt_embeds"].to(x.dtype)
    return denoiser(x, encoder_hidden_states=embeds, timestep=sigma, return_dict=False)[0]


def omnigen_velocity(denoiser: Any, x: Tensor, sigma: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
    """Call OmniGen's transformer, its sequence laid out by the family; time runs backwards, and so does the output."""
    from tuner_omnigen.velocity import lay_out

    patch = denoiser.config.patch_size
    tokens = (x.shape[-2] // patch) * (x.shape[-1] // patch)
    sequence = lay_out(conditioning["input_ids"], tokens)
    images: dict[str, Any] = {"input_img_latents": [], "input_image_sizes": {}}
    return -denoiser(x, timestep=1 - sigma, **images, **sequence, return_dict=False)[0]


def hidream_velocity(denoiser: Any, x: Tensor, sigma: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
    """Call HiDream's transformer, whose output in training is tokens, put in their places by the family."""
    from tuner_hidream.text import network_arguments
    from tuner_hidream.velocity import join_tokens

    arguments = network_arguments(conditioning, x.dtype)
    raw = denoiser(x, timesteps=sigma * 1000, **arguments, return_dict=False)[0]
    return -join_tokens(raw, x, denoiser.config.patch_size)


def cosmos2_velocity(denoiser: Any, x: Tensor, sigma: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
    """Call Cosmos' transformer; its time argument is sigma."""
    return denoiser(
        hidden_states=x,
        timestep=sigma,
        encoder_hidden_states=conditioning["prompt_embeds"].to(x.dtype),
        padding_mask=x.new_zeros(1, 1, *x.shape[-2:]),
        return_dict=False,
    )[0]


FAMILIES = {
    "sana": BenchmarkFamily(
        {
            "num_layers": 21,
            "num_attention_heads": 12,
            "attention_head_dim": 32,
            "num_cross_attention_heads": 6,
            "cross_attention_head_dim": 64,
            "cross_attention_dim": 384,
            "mlp_ratio": 2.5,
        },
        sana_velocity,
    ),
    "auraflow": BenchmarkFamily(
        {
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 6,
            "attention_head_dim": 64,
            "num_attention_heads": 8,
            "caption_projection_dim": 512,
        },
        auraflow_velocity,
    ),
    "omnigen": BenchmarkFamily(
        {
            "hidden_size": 512,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "intermediate_size": 2048,
            "num_layers": 12,
            "rope_scaling": {"type": "su", "short_factor": [1.0] * 32, "long_factor": [1.0] * 32},
        },
        omnigen_velocity,
    ),
    "hidream": BenchmarkFamily({"num_attention_heads": 32}, hidream_velocity),
    "cosmos2": BenchmarkFamily(
        {"num_attention_heads": 12, "attention_head_dim": 32, "num_layers": 20, "mlp_ratio": 4.0, "adaln_lora_dim": 64},
        cosmos2_velocity,
    ),
}
"""Families that can be measured, by name."""


def picture_edge(family_name: str, size: str) -> int:
    """Return the edge of the training pictures in pixels."""
    facts = load_family(family_name).facts
    return SIDES[size] * facts.latent_stride * facts.patch_size


def write_model(family_name: str, size: str, folder: Path) -> Path:
    """Write a checkpoint of a size that `SIDES` names to a new folder."""
    family = load_family(family_name)
    write_twin(family, folder)
    if size == "mid":
        place = folder / family.facts.part_folders["denoiser"][0]
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        shutil.rmtree(place)
        model_class = getattr(diffusers, config["_class_name"])
        with seeded_torch(0, "mid-size denoiser"), torch.no_grad():
            denoiser = model_class.from_config({**config, **FAMILIES[family_name].mid})
        denoiser.save_pretrained(place, safe_serialization=True)
    return folder
