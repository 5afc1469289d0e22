"""What of a learner goes into a checkpoint, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tuner.errors import CheckpointError
from tuner.optim.state import load_optimizer_state, optimizer_state
from tuner.sharding import gathered
from tuner.training.loop import Learner

_ADAPTER = "adapter_state.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_OPTIMIZER_VALUES = "optimizer.json"
_SCALE = "loss_scale.json"
_AVERAGE = Path("ema") / "average.safetensors"


@dataclass(frozen=True)
class HeldState:
    """What a checkpoint holds of a learner: the live tensors, or whole copies of those that are shared out.

    Attributes:
        weights: Of what trains, by parameter name.
        optimizer: Tensors of the optimizer.
        optimizer_values: Its other values, as JSON holds them.
        average: The moving average, or None.
        scale: What the loss scale holds, or None.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    optimizer_values: dict[str, Any]
    average: dict[str, Tensor] | None
    scale: dict[str, Any] | None = None


def hold_state(learner: Learner, *, keep: bool = True) -> HeldState:
    """Return what a checkpoint holds. Where the denoiser is shared out, all processes call it.

    Args:
        learner: The learner.
        keep: Whether this process will write it; otherwise it gets no tensors.
    """
    tensors, values = optimizer_state(learner.optimizer)
    return HeldState(
        gathered(learner.trainable.state(), keep=keep),
        gathered(tensors, keep=keep),
        values,
        hold_average(learner, keep=keep),
        learner.scale.state() if learner.scale else None,
    )


def hold_average(learner: Learner, *, keep: bool) -> dict[str, Tensor] | None:
    """Return the moving average in the same way, or None where there is none."""
    return None if learner.average is None else gathered(learner.average.state(), keep=keep)


def save_learner(learner: Learner, held: HeldState, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write weights, optimizer and moving average, as `hold_state` returned them, into a checkpoint folder.

    The weights are there in the format that other programs read, and an adapter's exact ones as well: an adapter's
    file may fold values together. So is the moving average.
    """
    trainable = learner.trainable
    if trainable.kind == "full":
        trainable.export(folder, metadata, held.weights)
    else:
        trainable.export(folder, metadata)
        save_file(plain_tensors(held.weights), folder / _ADAPTER)
    save_file(plain_tensors(held.optimizer), folder / _OPTIMIZER)
    (folder / _OPTIMIZER_VALUES).write_text(json.dumps(held.optimizer_values), encoding="utf-8")
    if held.scale is not None:
        (folder / _SCALE).write_text(json.dumps(held.scale), encoding="utf-8")
    if held.average is not None:
        (folder / _AVERAGE).parent.mkdir()
        save_file(plain_tensors(held.average), folder / _AVERAGE)
        if trainable.kind != "full":
            trainable.export(folder / _AVERAGE.parent, {**metadata, "weights": "ema"}, held.average)


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
    if learner.scale is not None:
        learner.scale.load_state(json.loads((folder / _SCALE).read_text(encoding="utf-8")))
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
