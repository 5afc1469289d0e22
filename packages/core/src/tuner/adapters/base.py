"""What every way of training offers to the rest of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from tuner.errors import CheckpointError
from tuner.sharding import holding, local, shard_of

Kind = Literal["lycoris", "standard", "full"]


class Trainable(ABC):
    """The weights that a run trains, and the denoiser that they act in. One object per run.

    Attributes:
        kind: How the denoiser is trained.
        denoiser: The live network, adapter applied. With an adapter its own weights are frozen.
    """

    kind: ClassVar[Kind]

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser

    @abstractmethod
    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """Return what the optimizer trains; names and order are the same in every run of the same configuration."""

    @abstractmethod
    def export(self, folder: Path, metadata: Mapping[str, str], weights: Mapping[str, Tensor] | None = None) -> Path:
        """Write the result in the format that other programs read, and return the file or folder.

        It is written beside its place and renamed, so it is there whole or not at all.

        Args:
            folder: Where to put it; made if absent.
            metadata: What else to record in it, JSON texts or plain ones.
            weights: Values to save instead of the live ones, by parameter name, such as a moving average.

        Raises:
            ExportError: The file or folder exists.
        """

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Give the base model inside the block.

        Raises:
            TunerError: All weights are trained, so the base model is gone.
        """

    @abstractmethod
    def set_strength(self, strength: float) -> None:
        """Scale what the adapter adds: 0 nothing, 1 as it is trained.

        Raises:
            TunerError: All weights are trained, so there is no adapter.
        """

    @contextmanager
    def at_strength(self, strength: float) -> Iterator[None]:
        """Scale what the adapter adds inside the block alone; see `set_strength`."""
        if strength == 1:
            yield
            return
        self.set_strength(strength)
        try:
            yield
        finally:
            self.set_strength(1)

    @abstractmethod
    def description(self) -> str:
        """Say for people what is trained: layers, parameters, matches of each pattern."""

    def buffers(self) -> dict[str, Tensor]:
        """Return the tensors besides parameters that a checkpoint must hold."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return the exact values for a checkpoint by name. They are the live tensors, not copies."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()} | self.buffers()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy what `state` returned into the live tensors.

        Raises:
            CheckpointError: Names, shapes or dtypes differ from those of this run; nothing was changed.
        """
        live = self.state()
        if complaint := _difference(live, state):
            raise CheckpointError(
                f"the checkpoint's weights do not fit this run: {complaint}; resume with the adapter settings of the "
                "run that wrote it, or start a new run in another output_dir"
            )
        for name, tensor in live.items():
            local(tensor).copy_(shard_of(state[name], tensor))

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Let the parameters hold other values inside the block, cast to their dtype. None changes nothing."""
        with holding(self.named_parameters(), weights) if weights is not None else nullcontext():
            yield

    def parameter_count(self) -> int:
        """Return the number of trained values."""
        return sum(parameter.numel() for _, parameter in self.named_parameters())


class Adapter(Trainable):
    """Weights beside those of a base model, with a file format of their own."""

    @abstractmethod
    def file_tensors(self) -> dict[str, Tensor]:
        """Return what the adapter's file holds, by the names that it has there."""

    @abstractmethod
    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a file, which are those of `file_tensors` in name and shape, into the live ones."""


def _difference(live: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say how two sets of tensors differ in names, shapes or dtypes; empty if they do not."""
    parts = []
    if missing := sorted(live.keys() - given.keys()):
        parts.append(f"missing {_some(missing)}")
    if unexpected := sorted(given.keys() - live.keys()):
        parts.append(f"unexpected {_some(unexpected)}")
    unequal = [
        f"{name} is {_form(given[name])}, wanted {_form(tensor)}"
        for name, tensor in live.items()
        if name in given and _form(given[name]) != _form(tensor)
    ]
    if unequal:
        parts.append(_some(unequal))
    return "; ".join(parts)


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def freeze(denoiser: nn.Module) -> None:
    """Stop gradients to the base weights."""
    denoiser.requires_grad_(False)


def device_of(denoiser: nn.Module) -> torch.device:
    """Return the device of a network's first parameter."""
    return next(denoiser.parameters()).device
