"""LoRAs of layers that the original checkpoint has in one matrix, as one LoRA of that matrix, and back; exactly.

The rows of the fused matrix are those of its parts, one below the other. With up_i and down_i of rank r_i and one
scale for all, stacking down_1, down_2, ... and putting the up_i on the diagonal of a matrix gives the parts' products
in their rows. Whatever other LoRA the fused matrix has, each part of it is a LoRA too: that part's rows of up, and all
of down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tuner.errors import ExportError

UP, DOWN, ALPHA = "lora_up.weight", "lora_down.weight", "alpha"
METADATA_KEY = "fused_layers"
"""Where a file says which of the parts it has, and with which ranks: JSON, fused layer -> a rank, or 0, per part."""

LayerTensors = Mapping[str, Tensor]


def fuse(original: str, parts: Sequence[LayerTensors | None]) -> tuple[dict[str, Tensor], list[int]]:
    """Make one LoRA of those of the parts.

    Args:
        original: The fused layer, for messages.
        parts: A LoRA of each part; None where a part has none.

    Returns:
        The LoRA of the fused layer, and the rank of each part.

    Raises:
        ExportError: A part is no LoRA of a linear layer, or scales or sizes of parts differ.
    """
    present = [part for part in parts if part is not None]
    if any(part.keys() != {UP, DOWN, ALPHA} or part[UP].dim() != 2 for part in present):
        raise ExportError(
            f"the original checkpoint has {original} in one matrix, and of these adapters only plain LoRAs can be put "
            "together exactly: several LoKrs, for instance, are no LoKr\n    -> use the format lycoris or diffusers, "
            "or merge the adapter (tuner generate --merge)"
        )
    scales = {float(part[ALPHA]) / part[DOWN].shape[0] for part in present}
    rows = {part[UP].shape[0] for part in present}
    if len(scales) > 1 or len(rows) > 1:
        raise ExportError(f"{original} is one matrix in the original checkpoint, and its parts differ in scale or size")
    ranks = [0 if part is None else part[DOWN].shape[0] for part in parts]
    first, height, rank = present[0], rows.pop(), sum(ranks)
    up = first[UP].new_zeros(height * len(parts), rank)
    column = 0
    for number, part in enumerate(parts):
        if part is not None:
            up[number * height : (number + 1) * height, column : column + ranks[number]] = part[UP]
            column += ranks[number]
    down = torch.cat([part[DOWN] for part in present])
    return {UP: up, DOWN: down, ALPHA: torch.tensor(scales.pop() * rank, dtype=first[ALPHA].dtype)}, ranks


def split(fused: LayerTensors, count: int, ranks: Sequence[int] | None) -> list[dict[str, Tensor] | None]:
    """Undo `fuse`, or take any LoRA of a fused layer apart.

    Args:
        fused: The LoRA of the fused layer.
        count: Parts of the layer.
        ranks: What `fuse` returned, if it made this one.

    Raises:
        ExportError: It is no plain LoRA of a linear layer.
    """
    if fused.keys() - {ALPHA} != {UP, DOWN} or fused[UP].dim() != 2 or fused[UP].shape[0] % count:
        raise ExportError("of adapters of fused layers only plain LoRAs can be taken apart\n    -> give another file")
    rank = fused[DOWN].shape[0]
    alpha = fused.get(ALPHA, torch.tensor(float(rank)))
    blocks, parts, column = fused[UP].chunk(count), list[dict[str, Tensor] | None](), 0
    for number, block in enumerate(blocks):
        own = rank if ranks is None else ranks[number]
        if own == 0:
            parts.append(None)
            continue
        columns = slice(0, rank) if ranks is None else slice(column, column + own)
        column += own
        scaled = alpha if ranks is None else torch.tensor(float(alpha) / rank * own, dtype=alpha.dtype)
        parts.append({UP: block[:, columns].clone(), DOWN: fused[DOWN][columns].clone(), ALPHA: scaled})
    return parts


def read_ranks(metadata: Mapping[str, str]) -> dict[str, list[int]]:
    """Return what a file says of its fused layers; empty for files of other programs."""
    try:
        content = json.loads(metadata.get(METADATA_KEY, "{}"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
