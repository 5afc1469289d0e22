"""Which dtype each part of a model has, and computing in float16 with weights that are stored in float32."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tuner.config.precision import PrecisionConfig
from tuner.types import FamilyFacts, Part


@dataclass(frozen=True)
class Dtypes:
    """The dtypes that `mixed_precision` means for a family.

    float16 holds neither weights that train nor their gradients, and many text encoders and codecs pass its limit of
    65504: with it, the former are in float32 and the latter in bfloat16.

    Attributes:
        compute: Of the denoiser's computation, and of its weights where they are frozen.
        trained: Of the weights that train.
        encoders: Of text encoders.
        codec: Of the codec.
    """

    compute: torch.dtype
    trained: torch.dtype
    encoders: torch.dtype
    codec: torch.dtype

    @classmethod
    def of(cls, precision: PrecisionConfig, facts: FamilyFacts) -> Dtypes:
        """Look them up."""
        compute = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision.mixed_precision]
        half = compute == torch.float16
        encoders = torch.bfloat16 if half else compute
        codec = getattr(torch, facts.codec_dtype) if facts.codec_dtype else encoders
        return cls(compute, torch.float32 if half else compute, encoders, codec)

    @property
    def casts(self) -> bool:
        """Whether the denoiser's operations have to be cast."""
        return self.compute != self.trained

    def by_part(self, *, trains_denoiser: bool) -> dict[Part, torch.dtype]:
        """Return the dtype in which each part is loaded.

        Args:
            trains_denoiser: Whether all of the denoiser's weights train.
        """
        denoiser = self.trained if trains_denoiser else self.compute
        return {"denoiser": denoiser, "text_encoders": self.encoders, "codec": self.codec}


def cast_operations(network: nn.Module, device: torch.device, exact_attention: Collection[str] = ()) -> None:
    """Run every forward pass of a network under torch's automatic casting to float16.

    Matrix products and convolutions then compute in float16 whatever weights and inputs are stored in.

    Args:
        network: Changed in place; its parameters and their names stay.
        device: Where it computes.
        exact_attention: `FamilyFacts.exact_attention`. Of such attentions only the layers are cast.
    """
    for module in list(network.modules()):
        if type(getattr(module, "processor", None)).__name__ in exact_attention:
            _wrap(module, torch.autocast(device.type, enabled=False))
            for layer in module.modules():
                if not list(layer.children()):
                    _cast_layer(layer, device)
    _wrap(network, torch.autocast(device.type, torch.float16))


def _wrap(module: nn.Module, block: torch.autocast) -> None:
    forward: Any = module.forward
    module.forward = block(forward)


def _cast_layer(layer: nn.Module, device: torch.device) -> None:
    """Cast what a layer computes, by hooks: an adapter may put itself in the place of its forward pass later on."""
    entered: list[torch.autocast] = []

    def enter(*_: Any) -> None:
        block = torch.autocast(device.type, torch.float16)
        block.__enter__()
        entered.append(block)

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    layer.register_forward_pre_hook(enter)
    layer.register_forward_hook(leave, always_call=True)
