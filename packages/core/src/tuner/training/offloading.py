"""Group offload: a denoiser's frozen blocks wait on the host or the disk, and the device gets copies of a few.

diffusers has hooks for this, made for sampling: they exchange the data of weights that the autograd graph has saved, so
backward passes read what is no longer there. Here a layer is lent *other* tensors, which the graph keeps for as long as
it needs them; the waiting ones never change. Gradients are therefore those of a network that stays on its device,
whatever is recomputed, and in whatever order blocks run.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import Parameter

from tuner.adapters.base import Trainable
from tuner.config import RunConfig
from tuner.errors import TunerError

logger = logging.getLogger(__name__)

HOST = torch.device("cpu")


@dataclass(frozen=True)
class GroupOffload:
    """How a denoiser is offloaded.

    Attributes:
        kind: block_level moves blocks, leaf_level each layer within them by itself.
        blocks: Blocks that are moved together.
        stream: Whether the next group is copied while the device computes.
        folder: Where groups wait on the disk, or None for the host's memory.
    """

    kind: Literal["block_level", "leaf_level"]
    blocks: int = 1
    stream: bool = False
    folder: Path | None = None

    def apply(self, denoiser: nn.Module, device: torch.device) -> Offloader:
        """Offload the frozen weights of a denoiser's blocks, and put everything else on the device."""
        return Offloader(denoiser, device, self)


def group_offload(config: RunConfig, device: torch.device) -> GroupOffload | None:
    """Return how the run offloads its denoiser; None where it does not, as on a CPU, which has nowhere to move it."""
    memory = config.memory
    if not memory.enable_group_offload or device.type == "cpu":
        return None
    return GroupOffload(
        memory.group_offload_type,
        memory.group_offload_blocks_per_group,
        uses_stream(config, device),
        memory.group_offload_to_disk_path,
    )


def uses_stream(config: RunConfig, device: torch.device) -> bool:
    """Whether copies overlap with computing: recomputed blocks come in another order than the one copied ahead."""
    return (
        config.memory.group_offload_use_stream
        and device.type == "cuda"
        and not config.optimisation.gradient_checkpointing
    )


def check_offload(config: RunConfig, device: torch.device) -> None:
    """Say what of the settings applies on this device, before anything is loaded.

    Raises:
        TunerError: group_offload_to_disk_path cannot be written.
    """
    memory = config.memory
    if not memory.enable_group_offload:
        return
    if device.type == "cpu":
        logger.warning("enable_group_offload has no effect on a CPU: the denoiser is where its blocks would wait")
    if memory.group_offload_use_stream and not uses_stream(config, device):
        cuda = device.type == "cuda"
        reason = "gradient_checkpointing recomputes blocks in another order" if cuda else "there is no CUDA device"
        logger.info("group_offload_use_stream is off: %s", reason)
    if memory.group_offload_to_disk_path is not None:
        _check_writable(memory.group_offload_to_disk_path)


def place_trainable(trainable: Trainable, device: torch.device) -> None:
    """Move what trains to the device; before the optimizer sees it."""
    for tensor in (*(parameter for _, parameter in trainable.named_parameters()), *trainable.buffers().values()):
        tensor.data = tensor.data.to(device)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise TunerError(
            f"group_offload_to_disk_path: {folder} cannot be written ({error.strerror})\n"
            "    -> name a folder on a fast local disk, or leave it out to keep blocks in the host's memory"
        ) from error


def _write(file: Path, tensors: Sequence[Tensor]) -> None:
    try:
        save_file({str(number): tensor.detach().contiguous() for number, tensor in enumerate(tensors)}, file)
    except (OSError, SafetensorError) as error:
        raise TunerError(
            f"group_offload_to_disk_path: {file.parent} cannot hold the denoiser: {error}\n"
            "    -> make room, or name a folder on another disk"
        ) from error


class Group:
    """Layers whose frozen weights are moved together.

    Args:
        modules: The layers.
        file: Where their weights wait, or None for the host's memory.
        pin: Whether host memory is pinned, so that copies need not be waited for.
    """

    def __init__(self, modules: Sequence[nn.Module], file: Path | None, pin: bool) -> None:
        self.modules = tuple(modules)
        self._file = file
        self._places = [
            (owner, name)
            for module in modules
            for owner in module.modules()
            for name, parameter in owner._parameters.items()
            if parameter is not None and not parameter.requires_grad
        ]
        self._waiting: list[Parameter] = [owner._parameters[name] for owner, name in self._places]  # type: ignore[misc]
        if file is not None:
            _write(file, self._waiting)
            self._waiting = [Parameter(each.detach().to("meta"), requires_grad=False) for each in self._waiting]
        for parameter in self._waiting if file is None else ():
            parameter.data = parameter.data.to(HOST)
            parameter.data = parameter.data.pin_memory() if pin else parameter.data
        self.release()

    def __len__(self) -> int:
        """Return how many weights are moved."""
        return len(self._places)

    def copies(self, device: torch.device) -> list[Tensor]:
        """Return the weights on a device; from pinned memory without waiting for the copies."""
        if self._file is None:
            return [parameter.detach().to(device, non_blocking=True) for parameter in self._waiting]
        tensors = load_file(self._file, device=str(device))
        return [tensors[str(number)] for number in range(len(self._places))]

    def lend(self, copies: Sequence[Tensor]) -> None:
        """Let the layers compute with these tensors."""
        for (owner, name), tensor in zip(self._places, copies, strict=True):
            owner._parameters[name] = Parameter(tensor, requires_grad=False)

    def release(self) -> None:
        """Put the waiting weights back; the lent ones live on where a graph needs them."""
        for (owner, name), parameter in zip(self._places, self._waiting, strict=True):
            owner._parameters[name] = parameter


class Offloader:
    """Lends each group its weights when one of its layers is called, and takes those of the group before away.

    Attributes:
        groups: The groups, in the order of the network.
    """

    def __init__(self, denoiser: nn.Module, device: torch.device, settings: GroupOffload) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device) if settings.stream else None
        # Goes with this object: what waits there is of no use to another run.
        self._scratch = (
            tempfile.TemporaryDirectory(prefix="offload-", dir=settings.folder) if settings.folder is not None else None
        )
        self.groups: list[Group] = []
        for number, modules in enumerate(_grouped(denoiser, settings)):
            file = Path(self._scratch.name) / f"{number}.safetensors" if self._scratch else None
            self.groups.append(Group(modules, file, pin=device.type == "cuda"))
        self._current: int | None = None
        self._ahead: tuple[int, list[Tensor]] | None = None
        _move_rest(denoiser, self.groups, device)
        for number, group in enumerate(self.groups):
            for module in group.modules:
                module.register_forward_pre_hook(lambda *_, number=number: self._enter(number))

    def _enter(self, number: int) -> None:
        if self._current == number:
            return
        if self._current is not None:
            self.groups[self._current].release()
        self.groups[number].lend(self._fetch(number))
        self._current = number
        if self._stream is not None:
            following = (number + 1) % len(self.groups)
            with torch.cuda.stream(self._stream):
                self._ahead = following, self.groups[following].copies(self._device)

    def _fetch(self, number: int) -> list[Tensor]:
        """Return a group's weights, copied ahead or now."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] != number:
            return self.groups[number].copies(self._device)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in ahead[1]:
            tensor.record_stream(current)
        return ahead[1]


def _grouped(denoiser: nn.Module, settings: GroupOffload) -> Iterator[list[nn.Module]]:
    """Yield the modules of each group: `blocks` neighbours of a list of blocks, or single layers within blocks."""
    lists = [child for child in denoiser.children() if isinstance(child, (nn.ModuleList, nn.Sequential))]
    for blocks in lists:
        if settings.kind == "leaf_level":
            for module in blocks.modules():
                if isinstance(module, _LEAVES) and _has_frozen(module):
                    yield [module]
            continue
        for start in range(0, len(blocks), settings.blocks):
            yield list(blocks)[start : start + settings.blocks]


_LEAVES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm)
"""Layers whose weights nobody reads but their own forward pass."""


def _has_frozen(module: nn.Module) -> bool:
    return any(not parameter.requires_grad for parameter in module.parameters(recurse=False))


def _move_rest(denoiser: nn.Module, groups: Sequence[Group], device: torch.device) -> None:
    waiting = {id(parameter) for group in groups for parameter in group._waiting}
    for parameter in denoiser.parameters():
        if id(parameter) not in waiting:
            parameter.data = parameter.data.to(device)
    for buffer in denoiser.buffers():
        buffer.data = buffer.data.to(device)
