"""From configuration to what trains."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from tuner.adapters.base import Trainable
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner.errors import ConfigError, Problem
from tuner.types import FamilyFacts


def create_trainable(
    *,
    model_type: Literal["lora", "full"],
    adapter: AdapterConfig,
    lycoris: LycorisConfig | None,
    facts: FamilyFacts,
    denoiser: nn.Module,
    dtype: torch.dtype,
    seed: int,
) -> Trainable:
    """Put the configured adapter into the denoiser and freeze the rest, or make all weights trainable.

    Args:
        model_type: Train an adapter or all weights.
        adapter: Kind and size of the adapter.
        lycoris: Contents of the LyCORIS file, where `adapter.lora_type` is lycoris.
        facts: The family's facts.
        denoiser: The network, on its device. Changed in place.
        dtype: Of an adapter's weights; with full training the denoiser stays as it was loaded.
        seed: Seed of the adapter's initialisation.

    Raises:
        ConfigError: The LyCORIS file is missing or does not fit the model.
        PluginError: The family's adapter targets do not fit the model.
    """
    if model_type == "full":
        from tuner.adapters.full import FullTrainable

        return FullTrainable(denoiser, facts.part_folders["denoiser"][0])
    if adapter.lora_type == "standard":
        from tuner.adapters.standard import StandardLora

        return StandardLora(denoiser, adapter, facts, dtype, seed)
    if lycoris is None:
        raise ConfigError(
            [Problem("lora_type is lycoris, which needs a LyCORIS file", key="lycoris_config", remedy="give its path")]
        )
    from tuner.adapters.lycoris import LycorisAdapter

    return LycorisAdapter(denoiser, lycoris, facts, dtype, seed, file=str(adapter.lycoris_config))
