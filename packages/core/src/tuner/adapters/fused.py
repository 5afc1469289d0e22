"""LoRAs of layers that the original checkpoint has in one matrix, as one LoRA of that matrix, and back; exactly.

The rows of the fused matrix are those of its parts, one below the other. With up_i and down_i of rank r_i and one
scale for all, stacking down_1, down_2, ... and putting the up_i on the diagonal of a matrix gives the parts' products
in their rows. Whatever other LoRA the fused matrix has, each part of it is a LoRA too: that part's rows of up, and all
of down.

Several LoKrs are no LoKr: one below the other, products of w1_i and w2_i have as many independent terms as there are
parts. What they add to the fused matrix is then written out in full, as LyCORIS' and ComfyUI's `diff`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tuner.adapters.differences import ALPHA, DIFF, DOWN, UP, LayerTensors, difference
from tuner.errors import ExportError

METADATA_KEY = "fused_layers"
"""Where a file says which of the parts it has: JSON, fused layer -> a rank per part (1 in full differences), or 0."""


def fuse(original: str, parts: Sequence[LayerTensors | None]) -> tuple[dict[str, Tensor], list[int]]:
    """Make one adapter of those of the parts: a LoRA of LoRAs with one scale, otherwise the full difference.

    Args:
        original: The fused layer, for messages.
        parts: The adapter of each part; None where a part has none.

    Returns:
        The adapter of the fused layer, and the rank of each part: 0 where it has none, 1 in a full difference.

    Raises:
        ExportError: What a part adds is not known, or sizes of parts differ.
    """
    present = [part for part in parts if part is not None]
    if all(part.keys() == {UP, DOWN, ALPHA} and part[UP].dim() == 2 for part in present):
        scales = {float(part[ALPHA]) / part[DOWN].shape[0] for part in present}
        if len(scales) == 1 and len({part[UP].shape[0] for part in present}) == 1:
            return _one_lora(parts, scales.pop())
    return {DIFF: _stacked(original, parts)}, [int(part is not None) for part in parts]


def _one_lora(parts: Sequence[LayerTensors | None], scale: float) -> tuple[dict[str, Tensor], list[int]]:
    present = [part for part in parts if part is not None]
    ranks = [0 if part is None else part[DOWN].shape[0] for part in parts]
    first, rank = present[0], sum(ranks)
    height = first[UP].shape[0]
    up = first[UP].new_zeros(height * len(parts), rank)
    column = 0
    for number, part in enumerate(parts):
        if part is not None:
            up[number * height : (number + 1) * height, column : column + ranks[number]] = part[UP]
            column += ranks[number]
    down = torch.cat([part[DOWN] for part in present])
    return {UP: up, DOWN: down, ALPHA: torch.tensor(scale * rank, dtype=first[ALPHA].dtype)}, ranks


def _stacked(original: str, parts: Sequence[LayerTensors | None]) -> Tensor:
    """Return what all parts together add to the fused matrix, in float32."""
    found = [None if part is None else difference(part) for part in parts]
    if any(part is not None and own is None for part, own in zip(parts, found, strict=True)):
        raise ExportError(
            f"the original checkpoint has {original} in one matrix, and of these adapters only LoRAs and LoKrs can be "
            "put together\n    -> use the format lycoris or diffusers, or merge the adapter (tuner generate --merge)"
        )
    shapes = {own.shape for own in found if own is not None}
    if len(shapes) > 1:
        raise ExportError(f"{original} is one matrix in the original checkpoint, and its parts differ in size")
    missing = torch.zeros(shapes.pop())
    return torch.cat([missing if own is None else own for own in found])


def split(fused: LayerTensors, count: int, ranks: Sequence[int] | None) -> list[dict[str, Tensor] | None]:
    """Undo `fuse`, or take any LoRA or full difference of a fused layer apart.

    Args:
        fused: The adapter of the fused layer.
        count: Parts of the layer.
        ranks: What `fuse` returned, if it made this one.

    Raises:
        ExportError: It is neither a plain LoRA of a linear layer nor a full difference.
    """
    if fused.keys() == {DIFF} and fused[DIFF].dim() == 2 and not fused[DIFF].shape[0] % count:
        rows = fused[DIFF].chunk(count)
        return [{DIFF: own.clone()} if ranks is None or ranks[number] else None for number, own in enumerate(rows)]
    if fused.keys() - {ALPHA} != {UP, DOWN} or fused[UP].dim() != 2 or fused[UP].shape[0] % count:
        raise ExportError(
            "of adapters of fused layers only plain LoRAs and full differences can be taken apart\n"
            "    -> give another file"
        )
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
