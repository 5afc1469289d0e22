"""The same adapter in the formats of diffusers, LyCORIS and ComfyUI."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig
from torch import Tensor

from tuner.adapters.differences import ALPHA, DIFF, DOWN, UP, difference, scaled
from tuner.adapters.files import WEIGHT_FILE, placed, write_tensors
from tuner.adapters.fused import METADATA_KEY as FUSED_KEY
from tuner.adapters.fused import fuse, read_ranks, split
from tuner.adapters.lokr import upstream_name
from tuner.adapters.lycoris import METADATA_KEY as LYCORIS_KEY
from tuner.adapters.names import LayerNames
from tuner.adapters.saved import ORIGINAL_PREFIX, SavedAdapter, open_saved
from tuner.adapters.standard import METADATA_KEY as LORA_KEY
from tuner.adapters.standard import config_json
from tuner.errors import ExportError
from tuner.types import FamilyFacts

logger = logging.getLogger(__name__)

Format = Literal["diffusers", "lycoris", "comfyui"]
_LYCORIS = "lycoris_"
_PEFT = {".lora_A.weight": DOWN, ".lora_B.weight": UP}
_PICKLED = (".pt", ".pth", ".ckpt", ".bin")
_UNSERVED = ("use_rslora", "use_dora", "lora_bias")
"""PEFT's settings that change what a LoRA's tensors mean."""


@dataclass
class NamedAdapter:
    """An adapter by layer.

    Attributes:
        layers: diffusers' name of a layer -> its tensors by LyCORIS' names, alphas included.
        metadata: What the file records.
        lycoris: LyCORIS' settings among it.
    """

    layers: dict[str, dict[str, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)
    lycoris: dict[str, Any] = field(default_factory=dict)


def convert(source: Path, target: Path, form: Format, facts: FamilyFacts) -> Path:
    """Write an adapter in another format, and read it back to prove that it is the same.

    Args:
        source: An adapter's file, in any of the formats, or its folder.
        target: The file to write; a folder, or a name without suffix, gets `pytorch_lora_weights.safetensors`.
        form: The format.
        facts: Of the family that the adapter is for.

    Raises:
        ExportError: The format cannot hold this adapter, the target exists, or the file cannot be read.
    """
    if not facts.original_layers:
        raise ExportError(
            f"{facts.title} does not say what its layers are called, so its adapters have one format only"
        )
    if target.suffix in _PICKLED:
        raise ExportError(f"{target} has a name for pickled weights, which are never written\n    -> .safetensors")
    adapter = read_adapter(source, facts)
    if form != "lycoris":  # the one format that says the multiplier apart
        adapter = _multiplied(adapter)
    tensors, metadata = _written(adapter, form, facts)
    file = target if target.suffix == ".safetensors" else target / WEIGHT_FILE
    with placed(file) as aside:
        write_tensors(aside, tensors, metadata)
        if not _equal(adapter.layers, read_adapter(aside, facts).layers):
            raise ExportError(f"{source} in the format {form} would be another adapter; please report this")
    before = sum(DIFF in values for values in adapter.layers.values())
    if written := sum(name.endswith(f".{DIFF}") for name in tensors) - before:
        logger.warning(
            "the original checkpoint has several layers in one matrix, whose LoKrs are no LoKr: %d matrices hold what "
            "they add in full, and the file has %.1f MB", written, file.stat().st_size / 1e6,
        )  # fmt: skip
    return file


def read_adapter(path: Path, facts: FamilyFacts) -> NamedAdapter:
    """Read an adapter in any of the formats.

    Raises:
        ExportError: The file cannot be read, is in no known format, or is not for this family.
    """
    saved = open_saved(path)
    tensors, names = saved.tensors(), LayerNames(facts)
    if saved.has_original_names:
        layers = _from_comfy(tensors, names, read_ranks(saved.metadata))
    elif all(name.startswith(_LYCORIS) for name in tensors):
        grouped = _grouped(tensors)
        dotted = names.dotted(grouped)
        layers = {dotted[name]: values for name, values in grouped.items()}
    elif all(name.endswith(tuple(_PEFT)) for name in tensors):
        layers = _from_peft(saved, tensors)
    else:
        raise ExportError(
            f"{saved.file} is in none of the formats of diffusers, LyCORIS and ComfyUI; of {len(tensors)} tensors the "
            f"first is {next(iter(saved.shapes), 'none')}\n    -> give a LoRA or LyCORIS file"
        )
    for values in layers.values():
        if DOWN in values and ALPHA not in values:
            values[ALPHA] = torch.tensor(float(values[DOWN].shape[0]))
    return NamedAdapter(layers, dict(saved.metadata), saved.settings() if LYCORIS_KEY in saved.metadata else {})


def _from_peft(saved: SavedAdapter, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    settings = saved.settings()
    if odd := [key for key in _UNSERVED if settings.get(key)]:
        raise ExportError(f"{saved.file} was made with {', '.join(odd)}, which other formats cannot say")
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        ending = next(item for item in _PEFT if name.endswith(item))
        layer = name.removeprefix(f"{saved.prefix}.").removesuffix(ending)
        layers.setdefault(layer, {})[_PEFT[ending]] = tensor
    for layer, values in layers.items():
        alpha = (settings.get("alpha_pattern") or {}).get(layer, settings.get("lora_alpha", values[DOWN].shape[0]))
        values[ALPHA] = torch.tensor(float(alpha))
    return layers


def _from_comfy(
    tensors: Mapping[str, Tensor], names: LayerNames, ranks: Mapping[str, list[int]]
) -> dict[str, dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    for original, values in _grouped(
        {name.removeprefix(ORIGINAL_PREFIX): tensor for name, tensor in tensors.items()}
    ).items():
        own = names.layers_of(original)
        if len(own) == 1:
            layers[own[0]] = values
        else:
            parts = split(values, len(own), ranks.get(original))
            layers.update({layer: part for layer, part in zip(own, parts, strict=True) if part is not None})
    return layers


def _multiplied(adapter: NamedAdapter) -> NamedAdapter:
    """Return an adapter whose tensors hold the multiplier that LyCORIS' settings have beside them."""
    if (multiplier := float(adapter.lycoris.get("multiplier", 1.0))) == 1:
        return adapter
    settings = {**adapter.lycoris, "multiplier": 1.0}
    layers = {layer: scaled(values, multiplier) for layer, values in adapter.layers.items()}
    return NamedAdapter(layers, {**adapter.metadata, LYCORIS_KEY: json.dumps(settings)}, settings)


def _written(adapter: NamedAdapter, form: Format, facts: FamilyFacts) -> tuple[dict[str, Tensor], dict[str, str]]:
    metadata = {key: value for key, value in adapter.metadata.items() if key not in (LORA_KEY, FUSED_KEY, "format")}
    if form == "diffusers":
        return _to_peft(adapter, facts, metadata)
    if form == "lycoris":
        flat = {f"{upstream_name(layer)}.{key}": value for layer, key, value in _items(adapter.layers)}
        return flat, metadata
    return _to_comfy(adapter, LayerNames(facts), metadata)


def _to_peft(
    adapter: NamedAdapter, facts: FamilyFacts, metadata: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    other = sorted({key for values in adapter.layers.values() for key in values} - {UP, DOWN, ALPHA})
    if other:
        raise ExportError(
            f"the adapter holds {', '.join(other)}, so it is no LoRA, and diffusers' format holds LoRAs alone\n"
            "    -> use the format lycoris or comfyui"
        )
    prefix = facts.part_folders["denoiser"][0]
    endings = {key: ending for ending, key in _PEFT.items()}
    tensors = {f"{prefix}.{layer}{endings[key]}": value for layer, key, value in _items(adapter.layers) if key != ALPHA}
    ranks = {layer: values[DOWN].shape[0] for layer, values in adapter.layers.items()}
    alphas = {layer: float(values[ALPHA]) for layer, values in adapter.layers.items()}
    rank, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    config = LoraConfig(
        r=int(rank),
        lora_alpha=alpha,
        target_modules=sorted(adapter.layers),
        rank_pattern={layer: own for layer, own in ranks.items() if own != rank},
        alpha_pattern={layer: own for layer, own in alphas.items() if own != alpha},
    )
    metadata.pop(LYCORIS_KEY, None)
    return tensors, {**metadata, LORA_KEY: config_json(config, prefix)}


def _to_comfy(
    adapter: NamedAdapter, names: LayerNames, metadata: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    fused: dict[str, list[dict[str, Tensor] | None]] = {}
    tensors: dict[str, Tensor] = {}
    for layer, values in adapter.layers.items():
        place = names.place_of(layer)
        if place.parts == 1:
            tensors |= {f"{ORIGINAL_PREFIX}{place.original}.{key}": value for key, value in values.items()}
        else:
            fused.setdefault(place.original, [None] * place.parts)[place.part] = values
    ranks: dict[str, list[int]] = {}
    for original, parts in fused.items():
        values, ranks[original] = fuse(original, parts)
        tensors |= {f"{ORIGINAL_PREFIX}{original}.{key}": value for key, value in values.items()}
    return tensors, {**metadata, **({FUSED_KEY: json.dumps(ranks, sort_keys=True)} if ranks else {})}


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return layer -> tensors, for names whose endings are LyCORIS'."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        ending = next(
            (key for key in (UP, DOWN, "lora_mid.weight") if name.endswith(f".{key}")), name.rpartition(".")[2]
        )
        layers.setdefault(name.removesuffix(f".{ending}"), {})[ending] = tensor
    return layers


def _items(layers: Mapping[str, Mapping[str, Tensor]]) -> list[tuple[str, str, Any]]:
    return [(layer, key, value) for layer, values in layers.items() for key, value in values.items()]


def _equal(one: Mapping[str, Mapping[str, Tensor]], other: Mapping[str, Mapping[str, Tensor]]) -> bool:
    return one.keys() == other.keys() and all(_same(values, other[layer]) for layer, values in one.items())


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether tensors of a layer are equal, or one side holds in full what the other adds."""
    if other.keys() == {DIFF} != one.keys():
        added = difference(one)
        return added is not None and torch.equal(added, other[DIFF])
    return one.keys() == other.keys() and all(
        torch.allclose(value.float(), other[key].float(), rtol=1e-6, atol=0)
        if key == ALPHA  # goes through a text or a product
        else torch.equal(value, other[key])
        for key, value in one.items()
    )
