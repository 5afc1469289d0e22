"""What an adapter adds to the weight of its layer, computed from the tensors of a file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.errors import ExportError

UP, DOWN, ALPHA, DIFF = "lora_up.weight", "lora_down.weight", "alpha", "diff"

LayerTensors = Mapping[str, Tensor]


def difference(values: LayerTensors) -> Tensor | None:
    """Return dW of a linear layer in float32; None for what is neither a LoRA, nor a LoKr, nor a full difference.

    A LoRA adds alpha / rank * up @ down. A LoKr adds the Kronecker product of w1 and w2, each of which may be a product
    of two matrices; alpha / rank then scales it, and where neither is, alpha has no meaning.
    """
    names = values.keys() - {ALPHA}
    found: Tensor | None
    if names == {DIFF}:
        found = values[DIFF].float()
    elif names == {UP, DOWN}:
        found = _scale(values, DOWN) * (values[UP].float() @ values[DOWN].float()) if values[UP].dim() == 2 else None
    else:
        found = _kronecker(values, names)
    return found if found is not None and found.dim() == 2 else None


def scaled(values: LayerTensors, scale: float) -> dict[str, Tensor]:
    """Return the tensors of an adapter that adds `scale` times as much.

    Raises:
        ExportError: It is none of LoRA, LoKr, LoHa and full difference.
    """
    has_rank = any(name in values for name in (DOWN, "lokr_w1_b", "lokr_w2_b", "hada_w1_b"))
    name = next((key for key in ((ALPHA,) if has_rank else (DIFF, "lokr_w1")) if key in values), None)
    if name is None:
        raise ExportError(
            f"an adapter of {', '.join(sorted(values))} has a multiplier that no other format can say\n"
            "    -> use the format lycoris"
        )
    return {**values, name: values[name].float() * scale}


def _kronecker(values: LayerTensors, names: set[str]) -> Tensor | None:
    factors, scale = [], 1.0
    for number in (1, 2):
        whole, left, right = (f"lokr_w{number}{ending}" for ending in ("", "_a", "_b"))
        if whole in names:
            factors.append(values[whole].float())
            names = names - {whole}
        elif {left, right} <= names:
            factors.append(values[left].float() @ values[right].float())
            scale = _scale(values, right)
            names = names - {left, right}
    return scale * torch.kron(*factors) if len(factors) == 2 and not names else None


def _scale(values: LayerTensors, lower: str) -> float:
    rank = values[lower].shape[0]
    return float(values[ALPHA]) / rank if ALPHA in values else 1.0
