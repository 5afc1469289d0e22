"""Starting a fresh run from a saved adapter: all of it, exactly, or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from tuner.adapters.base import Adapter
from tuner.adapters.saved import SavedAdapter, open_saved
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner.errors import ConfigError, ExportError, Problem

logger = logging.getLogger(__name__)

_MATRICES = ("factor", "linear_dim", "full_matrix", "decompose_both")
"""Settings of a LyCORIS file that decide on the shapes of its tensors."""

_UNTRAINED = {"alpha_pattern": {}, "rank_pattern": {}, "use_rslora": False, "use_dora": False}
"""PEFT's settings that change what a LoRA's tensors mean -> the only values that are trained here."""


def check_initial_adapter(adapter: AdapterConfig, lycoris: LycorisConfig | None) -> None:
    """Refuse the file of `init_lora` for what its header shows, before any weight is loaded.

    For fresh runs: a resumed one does not read the file.

    Raises:
        ConfigError: The file is missing or damaged, is another kind of adapter, or its rank, alpha or multiplier
            differ from this run's.
    """
    if adapter.init_lora is not None:
        _open(adapter, lycoris)


def start_from_saved(trainable: Adapter, adapter: AdapterConfig, lycoris: LycorisConfig | None) -> None:
    """Give an adapter the weights of the file of `init_lora`, cast to its dtype.

    In the dtype of the file the adapter then gives what the saved one gave, bit for bit. A LyCORIS file holds a trained
    scalar folded into the first matrix, so the scalar starts from 1; in bfloat16 the product is rounded once more,
    which moves the output by 1e-2 of itself at most.

    Raises:
        ConfigError: As `check_initial_adapter`, or the file's tensors and the adapter's differ in name, size or alpha.
    """
    saved = _open(adapter, lycoris)
    own = trainable.file_tensors()
    tensors = saved.tensors()
    if misfits := [*_misfits(saved, own), *_alphas(tensors, own)]:
        remedy = _remedy(saved, own, lycoris)
        raise ConfigError([_problem(f"{saved.file} does not fit: {'; '.join(misfits)}", remedy)])
    trainable.load_file_tensors(tensors)
    logger.info("the adapter starts from the %d tensors of %s", len(tensors), saved.file)


def _open(adapter: AdapterConfig, lycoris: LycorisConfig | None) -> SavedAdapter:
    assert adapter.init_lora is not None
    try:
        saved = open_saved(adapter.init_lora)
        problem = _wrong_kind(saved, adapter)
        if problem is None:
            problem = _other_lora(saved, adapter) if lycoris is None else _other_lokr(saved, lycoris)
    except ExportError as error:
        raise ConfigError([_problem(str(error), "correct it, or leave it out")]) from error
    if problem is not None:
        raise ConfigError([problem])
    return saved


def _wrong_kind(saved: SavedAdapter, adapter: AdapterConfig) -> Problem | None:
    if saved.lora_type is None:
        first = next(iter(saved.shapes), "none")
        return _problem(
            f"{saved.file} holds no adapter of a known format; of {len(saved.shapes)} tensors the first is {first}",
            "give a LoRA as diffusers saves it (PART.LAYER.lora_A.weight) or a LyCORIS file (lycoris_LAYER.lokr_w1)",
        )
    if saved.lora_type == adapter.lora_type:
        return None
    kind = "a LyCORIS adapter" if saved.lora_type == "lycoris" else "a standard LoRA"
    return _problem(
        f"{saved.file} is {kind}, and lora_type is {adapter.lora_type}",
        f"set lora_type to {saved.lora_type}, or give an adapter of the other kind",
    )


def _other_lora(saved: SavedAdapter, adapter: AdapterConfig) -> Problem | None:
    settings = saved.settings()
    ranks = sorted({shape[0] for name, shape in saved.shapes.items() if name.endswith(".lora_A.weight")})
    if odd := [key for key, usual in _UNTRAINED.items() if (settings.get(key) or usual) != usual]:
        return _problem(f"{saved.file} was made with {', '.join(odd)}, which is not trained here", _ANOTHER)
    if len(ranks) != 1:
        text = ", ".join(map(str, ranks))
        return _problem(f"{saved.file} has the ranks {text}, and one is trained here", _ANOTHER)
    if ranks[0] != adapter.lora_rank:
        return _problem(
            f"{saved.file} has rank {ranks[0]}, and lora_rank is {adapter.lora_rank}", f"set lora_rank to {ranks[0]}"
        )
    # What programs assume that read a file without settings.
    alpha = settings.get("lora_alpha", ranks[0])
    own = adapter.lora_rank if adapter.lora_alpha is None else adapter.lora_alpha
    if alpha == own:
        return None
    return _problem(f"{saved.file} has alpha {alpha:g}, and lora_alpha is {own:g}", f"set lora_alpha to {alpha:g}")


def _other_lokr(saved: SavedAdapter, lycoris: LycorisConfig) -> Problem | None:
    multiplier = saved.settings().get("multiplier", lycoris.multiplier)
    if multiplier == lycoris.multiplier:
        return None
    return _problem(
        f"{saved.file} was trained with multiplier {multiplier}, and the LyCORIS file has {lycoris.multiplier:g}",
        f"set multiplier to {multiplier} in the LyCORIS file",
    )


def _misfits(saved: SavedAdapter, own: Mapping[str, Tensor]) -> list[str]:
    """Say which names and sizes differ, with counts and the first of each."""
    found, total = [], len(saved.shapes)
    if strangers := [name for name in saved.shapes if name not in own]:
        found.append(f"{len(strangers)} of its {total} tensors match nothing in this run, the first {strangers[0]}")
    if lacking := sorted(own.keys() - saved.shapes.keys()):
        found.append(f"it lacks {len(lacking)} of the {len(own)} tensors of this run's adapter, the first {lacking[0]}")
    unequal = [name for name, shape in saved.shapes.items() if name in own and shape != tuple(own[name].shape)]
    if unequal:
        name = unequal[0]
        found.append(
            f"{len(unequal)} of its {total} tensors have other sizes, the first {name} is "
            f"{_size(saved.shapes[name])}, and {_size(own[name].shape)} in this run"
        )
    return found


def _alphas(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Say which scales differ. Unfactorised matrices have none, whatever their alpha is."""
    acting = [
        name
        for name in sorted(tensors.keys() & own.keys())
        if name.endswith(".alpha") and not {f"{_layer(name)}.lokr_w1", f"{_layer(name)}.lokr_w2"} <= own.keys()
    ]
    unequal = [name for name in acting if float(tensors[name]) != float(own[name])]
    if not unequal:
        return []
    name = unequal[0]
    return [
        f"{len(unequal)} of its {len(acting)} alphas differ, the first {name} is {float(tensors[name]):g} and "
        f"{float(own[name]):g} in this run"
    ]


_ANOTHER = "give another adapter"
_FAMILY = "use the model family and flavour that it was trained on"


def _remedy(saved: SavedAdapter, own: Mapping[str, Tensor], lycoris: LycorisConfig | None) -> str:
    """Name the settings that the file records and this run does not have, or where else to look."""
    if lycoris is None:
        return _FAMILY
    recorded, present = saved.settings(), lycoris.model_dump(mode="json", exclude_none=True)
    keys = (*_MATRICES, "linear_alpha")
    changes = [f"{key} to {json.dumps(recorded[key])}" for key in keys if _differs(key, recorded, present)]
    parts = [f"set {', '.join(changes)} in the LyCORIS file"] if changes else []
    if _differs("apply_preset", recorded, present):
        parts.append("use its apply_preset")
    if not recorded:
        parts.append(f"use the {', '.join(_MATRICES[:-1])} and {_MATRICES[-1]} that it was trained with")
    if not changes and _layers(saved.shapes) != _layers(own):
        parts.append(_FAMILY)
    return ", or ".join(parts) or _FAMILY


def _differs(key: str, recorded: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    return key in recorded and recorded[key] != present.get(key)


def _layers(names: Iterable[str]) -> set[str]:
    return {_layer(name) for name in names}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _problem(message: str, remedy: str) -> Problem:
    return Problem(message, key="init_lora", remedy=remedy)
