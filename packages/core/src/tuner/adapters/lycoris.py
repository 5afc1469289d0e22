"""Adapters of the LyCORIS kind, saved in LyCORIS' own format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from lycoris.modules.lokr import LokrModule
from lycoris.wrapper import LycorisNetwork
from torch import Tensor, nn
from torch.nn import Parameter

from tuner.adapters.base import Adapter, device_of, freeze
from tuner.adapters.files import write_weights
from tuner.adapters.lokr import (
    build_module,
    load_saved_tensors,
    merged_weight,
    quiet,
    refuse_unreloadable,
    saved_tensors,
    use_bypass,
)
from tuner.adapters.lokr_norm import init_lokr_norm
from tuner.adapters.lycoris_layers import Layer, Selection, select_layers
from tuner.config.lycoris import LycorisConfig
from tuner.randomness import seeded_torch
from tuner.types import FamilyFacts

METADATA_KEY = "lycoris_config"


class LycorisAdapter(Adapter):
    """A LoKr on the layers that the LyCORIS file chooses.

    Attributes:
        network: LyCORIS' network. It is no sub-module of the denoiser, so its parameters are not among the denoiser's.
    """

    kind = "lycoris"

    def __init__(
        self,
        denoiser: nn.Module,
        config: LycorisConfig,
        facts: FamilyFacts,
        dtype: torch.dtype,
        seed: int,
        file: str = "lycoris_config",
    ) -> None:
        super().__init__(denoiser)
        self._file = file
        # Rebuilding computes (W + dW) - W, which rounds a small dW away, in bf16 nearly all of it; and it is slower.
        bypass = config.bypass_mode is not False
        self.config = config.model_copy(update={"bypass_mode": bypass})
        self._selection = select_layers(denoiser, config.apply_preset, facts.class_aliases, file)
        freeze(denoiser)
        self.network = _build_network(denoiser, self.config, self._selection, seed, file)
        for parameter in self.network.parameters():
            parameter.data = parameter.data.to(dtype)
        self.network.to(device_of(denoiser))

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """Return the matrices under LyCORIS' names, a trained scalar apart."""
        return list(self.network.named_parameters())

    def buffers(self) -> dict[str, Tensor]:
        """Return the alphas."""
        return {f"{module.lora_name}.alpha": module.alpha for module in self.network.loras}

    def export(self, folder: Path, metadata: Mapping[str, str], weights: Mapping[str, Tensor] | None = None) -> Path:
        """Write `pytorch_lora_weights.safetensors`, which LyCORIS' `create_lycoris_from_weights` reads."""
        config = self.config.model_dump_json(exclude_none=True)
        with self.holding(weights):
            return write_weights(folder, self.file_tensors(), {**metadata, METADATA_KEY: config})

    def file_tensors(self) -> dict[str, Tensor]:
        """Return the matrices and alphas under LyCORIS' names, a trained scalar folded in."""
        return {
            f"{module.lora_name}.{key}": value
            for module in self.network.loras
            for key, value in saved_tensors(module).items()
        }

    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the matrices; the alphas stay, and a trained scalar, which the file has folded in, becomes 1."""
        for module in self.network.loras:
            load_saved_tensors(module, tensors)

    def start_from_noise(self, norm: float, seed: int) -> None:
        """Set the first values as `init_lokr_norm` says.

        Raises:
            ConfigError: A layer has a low-rank matrix.
        """
        init_lokr_norm(self._layers(), norm, seed, self._file)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Put the layers' own forward functions back inside the block."""
        for module in self.network.loras:
            module.restore()
        try:
            yield
        finally:
            for module in self.network.loras:
                module.apply_to()

    def set_strength(self, strength: float) -> None:
        """Scale the adapter, 1 being the multiplier of the LyCORIS file."""
        self.network.set_multiplier(self.config.multiplier * strength)

    def merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the names of the adapted weights in the denoiser, and their values with the adapter merged in."""
        for layer, module in self._layers():
            yield f"{layer.name}.weight", merged_weight(module)

    def description(self) -> str:
        """Say what is adapted, and what each class and pattern of the file matched."""
        counts = ", ".join(f"{pattern} {count}" for pattern, count in self._selection.matches.items())
        mode = "adds its output (bypass)" if self.config.bypass_mode else "rebuilds weights"
        return (
            f"LoKr on {len(self._selection.layers)} layers, {self.parameter_count():,} parameters; {mode}\n"
            f"  layers by class or pattern: {counts}"
        )

    def _layers(self) -> Iterator[tuple[Layer, LokrModule]]:
        return zip(self._selection.layers, self.network.loras, strict=True)


def _build_network(
    denoiser: nn.Module, config: LycorisConfig, selection: Selection, seed: int, file: str
) -> LycorisNetwork:
    """Make and apply LyCORIS' network.

    The network is made empty and filled, as upstream does when it loads a file: its own search for layers reads
    class attributes that one network's preset leaves behind for the next.
    """
    with quiet():
        network = LycorisNetwork(denoiser, init_only=True)
        network.multiplier = config.multiplier
        # Drawn on the CPU, so that every device starts from the same values.
        with seeded_torch(seed, "adapter"), torch.device("cpu"):
            network.loras = [build_module(layer, config, file) for layer in selection.layers]
        refuse_unreloadable(list(zip(selection.layers, network.loras, strict=True)), file)
        if config.bypass_mode:
            for module in network.loras:
                use_bypass(module)
        network.apply_to()
    return network
