"""What of a learner goes into a checkpoint, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tuner.errors import CheckpointError
from tuner.optim.state import load_optimizer_state, optimizer_state
from tuner.training.loop import Learner

_ADAPTER = "adapter_state.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_OPTIMIZER_VALUES = "optimizer.json"
_AVERAGE = Path("ema") / "average.safetensors"


def save_learner(learner: Learner, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write weights, optimizer and moving average into a checkpoint folder.

    The weights are there in the format that other programs read, and an adapter's exact ones as well: an adapter's
    file may fold values together. So is the moving average.
    """
    trainable = learner.trainable
    trainable.export(folder, metadata)
    if trainable.kind != "full":
        save_file(plain_tensors(trainable.state()), folder / _ADAPTER)
    tensors, values = optimizer_state(learner.optimizer)
    save_file(plain_tensors(tensors), folder / _OPTIMIZER)
    (folder / _OPTIMIZER_VALUES).write_text(json.dumps(values), encoding="utf-8")
    if learner.average is not None:
        (folder / _AVERAGE).parent.mkdir()
        averages = learner.average.state()
        save_file(plain_tensors(averages), folder / _AVERAGE)
        if trainable.kind != "full":
            trainable.export(folder / _AVERAGE.parent, {**metadata, "weights": "ema"}, averages)


def load_learner(learner: Learner, folder: Path) -> None:
    """Read what `save_learner` wrote into a learner of the same configuration.

    Raises:
        CheckpointError: Something is missing, cannot be read or does not fit.
    """
    trainable = learner.trainable
    if trainable.kind == "full":
        files = sorted(path for path in folder.glob("*/*.safetensors") if path.parent.name != _AVERAGE.parent.name)
        weights: dict[str, Tensor] = {}
        for file in files:
            weights.update(_read(file))
    else:
        weights = _read(folder / _ADAPTER)
    trainable.load_state(weights)
    values: dict[str, Any] = json.loads((folder / _OPTIMIZER_VALUES).read_text(encoding="utf-8"))
    load_optimizer_state(learner.optimizer, _read(folder / _OPTIMIZER), values)
    if learner.average is None:
        return
    if not (folder / _AVERAGE).is_file():
        raise CheckpointError(
            f"use_ema is on, but {folder} holds no moving average: its run had none\n"
            "    -> turn use_ema off, or start anew in another output_dir"
        )
    learner.average.load_state(_read(folder / _AVERAGE))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make tensors such as a file can hold: contiguous, each with memory of its own."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        address = own.untyped_storage().data_ptr()
        plain[name] = own.clone() if address in seen else own
        seen.add(address)
    return plain
