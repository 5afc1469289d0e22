"""Standard LoRA by PEFT, saved as diffusers saves it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import Parameter

from tuner.adapters.base import Adapter, freeze
from tuner.adapters.files import write_weights
from tuner.config.adapter import AdapterConfig
from tuner.errors import PluginError
from tuner.randomness import seeded_torch
from tuner.types import FamilyFacts

ADAPTER = "default"
METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers looks for the LoRA's configuration in a file's metadata."""

logger = logging.getLogger(__name__)


class StandardLora(Adapter):
    """A LoRA on the layers that the family names."""

    kind = "standard"

    def __init__(
        self, denoiser: nn.Module, adapter: AdapterConfig, facts: FamilyFacts, dtype: torch.dtype, seed: int
    ) -> None:
        super().__init__(denoiser)
        self._prefix = facts.part_folders["denoiser"][0]
        self._matches = _count_targets(denoiser, facts)
        alpha = adapter.lora_rank if adapter.lora_alpha is None else adapter.lora_alpha
        if alpha != adapter.lora_rank:
            logger.warning(
                "lora_alpha %g differs from lora_rank %d: programs that ignore the saved alpha will apply this LoRA "
                "%g times too strongly",
                alpha, adapter.lora_rank, adapter.lora_rank / alpha,
            )  # fmt: skip
        self._config = LoraConfig(
            r=adapter.lora_rank,
            lora_alpha=alpha,
            lora_dropout=adapter.lora_dropout,
            target_modules=list(facts.adapter_targets),
        )
        freeze(denoiser)
        with seeded_torch(seed, "adapter"):
            inject_adapter_in_model(self._config, denoiser, adapter_name=ADAPTER)
        # New layers start in training mode, whatever the model's.
        denoiser.train(denoiser.training)
        for _, parameter in self.named_parameters():
            parameter.data = parameter.data.to(dtype)

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """Return the LoRA matrices under PEFT's names."""
        return [(name, value) for name, value in self.denoiser.named_parameters() if f".{ADAPTER}." in name]

    def export(self, folder: Path, metadata: Mapping[str, str], weights: Mapping[str, Tensor] | None = None) -> Path:
        """Write `pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` reads."""
        with self.holding(weights):
            return write_weights(
                folder, self.file_tensors(), {**metadata, METADATA_KEY: config_json(self._config, self._prefix)}
            )

    def file_tensors(self) -> dict[str, Tensor]:
        """Return the matrices under diffusers' names."""
        tensors = get_peft_model_state_dict(self.denoiser, adapter_name=ADAPTER)
        return {f"{self._prefix}.{name}": value for name, value in tensors.items()}

    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy matrices that have diffusers' names into the live ones."""
        own = {name.removeprefix(f"{self._prefix}."): value for name, value in tensors.items()}
        set_peft_model_state_dict(self.denoiser, own, adapter_name=ADAPTER)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Leave the LoRA out inside the block."""
        layers = self._layers()
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def set_strength(self, strength: float) -> None:
        """Scale the LoRA, 1 being alpha / rank."""
        for layer in self._layers():
            layer.set_scale(ADAPTER, strength)

    def description(self) -> str:
        """Say what is adapted."""
        counts = ", ".join(f"{target} {count}" for target, count in self._matches.items())
        return (
            f"LoRA of rank {self._config.r}, alpha {self._config.lora_alpha:g} on {len(self._layers())} layers, "
            f"{self.parameter_count():,} parameters\n  layers by name: {counts}"
        )

    def _layers(self) -> list[BaseTunerLayer]:
        return [module for module in self.denoiser.modules() if isinstance(module, BaseTunerLayer)]


def config_json(config: LoraConfig, prefix: str) -> str:
    """Return a LoRA's configuration as diffusers reads it from a file's metadata.

    Args:
        config: Of PEFT.
        prefix: The part of the model that the file's names begin with.
    """

    def plain(value: Any) -> Any:
        return sorted(value) if isinstance(value, set) else value

    # diffusers leaves loaded layers in training mode, so a dropout named here would act on its users' pictures.
    values = {**config.to_dict(), "lora_dropout": 0.0, "inference_mode": True}
    return json.dumps({f"{prefix}.{key}": plain(value) for key, value in values.items()}, indent=2, sort_keys=True)


def _count_targets(denoiser: nn.Module, facts: FamilyFacts) -> dict[str, int]:
    """Count the layers that each of the family's targets names.

    Raises:
        PluginError: A target names none, so the family's facts do not fit this model.
    """
    names = [name for name, _ in denoiser.named_modules()]
    counts = {
        target: sum(name == target or name.endswith(f".{target}") for name in names) for target in facts.adapter_targets
    }
    if idle := [target for target, count in counts.items() if not count]:
        raise PluginError(
            f"family {facts.name} lists the adapter targets {', '.join(idle)}, which {type(denoiser).__name__} "
            "does not have; use weights of this family, or report it to the family's authors"
        )
    return counts
