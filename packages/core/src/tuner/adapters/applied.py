"""A saved adapter in a denoiser: how strongly it acts, and merging it into the denoiser's weights."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.wrapper import LycorisNetwork
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tuner.adapters.lokr import in_float32, merged_weight
from tuner.errors import TunerError
from tuner.quantisation.storing import stored_layers


class Applied(ABC):
    """An adapter that acts in a denoiser.

    Attributes:
        denoiser: The network.
        tensors: Number of tensors that the adapter's file holds.
    """

    def __init__(self, denoiser: nn.Module, tensors: int) -> None:
        self.denoiser = denoiser
        self.tensors = tensors

    @abstractmethod
    def set_strength(self, strength: float) -> None:
        """Scale what the adapter adds: 0 nothing, 1 as it was trained."""

    def merge(self) -> None:
        """Add the adapter to the denoiser's weights, at its present strength, and take it out.

        Sums are computed in float32 and rounded once, to the weights' dtype.

        Raises:
            TunerError: The denoiser is quantised, or the adapter is of a kind whose sum is not exact.
        """
        if stored_layers(self.denoiser):
            raise TunerError(
                "the denoiser is quantised, and merging would round the adapter away with its weights\n"
                "    -> merge first and quantise afterwards"
            )
        with torch.no_grad():
            self._merge()

    @abstractmethod
    def _merge(self) -> None:
        """Merge into a denoiser that is not quantised."""


class AppliedLora(Applied):
    """A LoRA that PEFT applied."""

    def __init__(self, denoiser: nn.Module, tensors: int, name: str) -> None:
        super().__init__(denoiser, tensors)
        self._name = name

    def set_strength(self, strength: float) -> None:
        """Scale the LoRA, 1 being alpha / rank."""
        for _, layer in self._layers():
            layer.set_scale(self._name, strength)

    def _merge(self) -> None:
        for path, layer in self._layers():
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[self._name].float()
            layer.merge(safe_merge=True)
            parent, _, child = path.rpartition(".")
            setattr(self.denoiser.get_submodule(parent), child, layer.get_base_layer())

    def _layers(self) -> list[tuple[str, BaseTunerLayer]]:
        modules = self.denoiser.named_modules()
        return [(name, module) for name, module in modules if isinstance(module, BaseTunerLayer)]


class AppliedLycoris(Applied):
    """A network that LyCORIS applied."""

    def __init__(self, denoiser: nn.Module, tensors: int, network: LycorisNetwork, multiplier: float) -> None:
        super().__init__(denoiser, tensors)
        self._network = network
        self._multiplier = multiplier

    def set_strength(self, strength: float) -> None:
        """Scale the adapter, 1 being the multiplier that it was trained with."""
        self._network.set_multiplier(self._multiplier * strength)

    def _merge(self) -> None:
        odd = sorted({type(module).__name__ for module in self._network.loras if not _is_a_sum(module)})
        if odd:
            raise TunerError(f"{', '.join(odd)} cannot be merged exactly\n    -> use the adapter without merging it")
        for module in self._network.loras:
            weight = _merged(module)
            module.restore()
            module.org_module[0].weight.copy_(weight)


def _is_a_sum(module: nn.Module) -> bool:
    """Whether what a module does is to add a matrix to the layer's own."""
    return isinstance(module, (LokrModule, LohaModule, LoConModule)) and not getattr(module, "wd", False)


def _merged(module: nn.Module) -> Tensor:
    if not isinstance(module, LoConModule):
        return merged_weight(module)
    weight: Tensor = module.org_module[0].weight
    # Its own multiplier is left out, since it is applied here.
    difference = in_float32(module, lambda: module.get_diff_weight(1.0, weight.shape)[0])
    return (weight.float() + module.multiplier * difference).to(weight.dtype)
