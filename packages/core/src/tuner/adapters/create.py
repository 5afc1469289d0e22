"""From configuration to what trains."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from tuner.adapters.base import Adapter, Trainable
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
    fresh: bool = True,
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
        fresh: Whether the run starts here. A resumed one gets its weights from its checkpoint, so neither `init_lora`
            nor `init_lokr_norm` is looked at.

    Raises:
        ConfigError: The LyCORIS file is missing or does not fit the model, or the adapter cannot start as `init_lora`
            or `init_lokr_norm` says.
        PluginError: The family's adapter targets do not fit the model.
    """
    if model_type == "full":
        from tuner.adapters.full import FullTrainable

        return FullTrainable(denoiser, facts.part_folders["denoiser"][0])
    trainable = _create_adapter(adapter, lycoris, facts, denoiser, dtype, seed)
    if fresh:
        _start(trainable, adapter, lycoris, seed)
    return trainable


def _start(trainable: Adapter, adapter: AdapterConfig, lycoris: LycorisConfig | None, seed: int) -> None:
    """Give a fresh adapter the first values that the settings ask for; weights from a file beat noise."""
    from tuner.adapters.initial import start_from_saved
    from tuner.adapters.lycoris import LycorisAdapter

    if adapter.init_lora is not None:
        start_from_saved(trainable, adapter, lycoris)
    elif adapter.init_lokr_norm is not None and isinstance(trainable, LycorisAdapter):
        trainable.start_from_noise(adapter.init_lokr_norm, seed)


def _create_adapter(
    adapter: AdapterConfig,
    lycoris: LycorisConfig | None,
    facts: FamilyFacts,
    denoiser: nn.Module,
    dtype: torch.dtype,
    seed: int,
) -> Adapter:
    if adapter.lora_type == "standard":
        from tuner.adapters.standard import StandardLora

        return StandardLora(denoiser, adapter, facts, dtype, seed)
    if lycoris is None:
        raise ConfigError(
            [Problem("lora_type is lycoris, which needs a LyCORIS file", key="lycoris_config", remedy="give its path")]
        )
    from tuner.adapters.lycoris import LycorisAdapter

    return LycorisAdapter(denoiser, lycoris, facts, dtype, seed, file=str(adapter.lycoris_config))
