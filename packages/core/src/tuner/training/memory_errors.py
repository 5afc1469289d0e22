"""Running out of memory, told as what was too large and the cheapest ways to make it smaller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import torch

from tuner.errors import TunerError
from tuner.training.session import Session

_SIGNS = (
    "can't allocate memory",  # torch's allocator of main memory, and on Windows the next one
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


SMALL_STATE = ("bnb-adamw8bit", "bnb-lion8bit-paged", "ao-adamw8bit", "adafactor")
"""Optimizers that keep two bytes of state for each weight, or less."""


class OutOfMemoryError(TunerError):
    """Something that a run needs does not fit into the memory of its device."""


@contextmanager
def memory_explained(device: torch.device, what: str, remedies: Sequence[str]) -> Iterator[None]:
    """Turn running out of memory inside the block into an error that helps.

    Args:
        device: Where the block computes.
        what: What it computes, as the beginning of a sentence.
        remedies: What would make it smaller, the cheapest first.

    Raises:
        OutOfMemoryError: The memory of the device, or the main memory, did not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first, *others = remedies or ["free memory, or take a device that has more"]
        advice = f"{first}; if that is not enough: {'; '.join(others)}" if others else first
        raise OutOfMemoryError(f"{what} does not fit into memory: {_use(device)}\n    -> {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator raised this; that of main memory raises plain RuntimeErrors."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def step_remedies(session: Session, dataset: str, batch_size: int) -> list[str]:
    """List what makes a training step smaller and is not done yet, the cheapest first.

    Args:
        session: The run's surroundings.
        dataset: The data set whose pictures are too large.
        batch_size: Samples in its micro-batches.
    """
    remedies = []
    if not session.config.optimisation.gradient_checkpointing:
        remedies.append("set gradient_checkpointing to true")
    if batch_size > 1:
        remedies.append(f"lower train_batch_size from {batch_size} to {batch_size // 2}")
    return [
        *remedies,
        *optimizer_remedies(session),
        *_weight_remedies(session),
        f"lower the resolution of data set {dataset}",
    ]


def optimizer_remedies(session: Session) -> list[str]:
    """List what makes gradients and the optimizer's state smaller and is not done yet; an adapter's are small."""
    optimisation = session.config.optimisation
    if session.config.model.model_type != "full":
        return []
    remedies = []
    needs_norm = optimisation.grad_clip_method == "norm" and optimisation.max_grad_norm
    needs_all = needs_norm or optimisation.gradient_accumulation_steps > 1 or not session.processes.is_alone
    if not optimisation.releases_gradients and not needs_all:
        remedies.append("set optimizer_release_gradients to true")
    if optimisation.optimizer not in SMALL_STATE:
        remedies.append(f"set optimizer to one with little state ({', '.join(SMALL_STATE)})")
    return remedies


def picture_remedies(session: Session, size: tuple[int, int], tile: int | None) -> list[str]:
    """List what makes a validation picture smaller and is not done yet, the cheapest first.

    Args:
        session: The run's surroundings.
        size: Width and height of the picture in pixels.
        tile: Side of the autoencoder's tiles in pixels; None if it has none.
    """
    helps = tile is not None and max(size) > tile and not session.config.memory.vae_enable_tiling
    tiling = ["set vae_enable_tiling to true"] if helps else []
    return [*tiling, *_weight_remedies(session), "lower validation_resolution"]


def _weight_remedies(session: Session) -> Iterator[str]:
    """Yield what makes the base model smaller, which only an adapter leaves as it is."""
    config = session.config
    if config.model.model_type == "full":
        return
    if not config.memory.enable_group_offload and session.device.type != "cpu":
        yield "set enable_group_offload to true"
    if config.precision.base_model_precision == "no_change":
        policy = session.hook.quantisation_policy(options=config.family).parts.get("denoiser")
        smaller = [name for name in policy.allowed if name != "no_change"] if policy else []
        if smaller:
            yield f"set base_model_precision to {smaller[0]}"


def _use(device: torch.device) -> str:
    """Say what was used, at its peak, and what there is."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_reserved(device)
        return f"the run took {_gib(peak)} of the device's {_gib(total)}, and {_gib(free)} are free"
    memory = psutil.virtual_memory()
    held = psutil.Process().memory_info().rss
    return f"the run held {_gib(held)} of {_gib(memory.total)}, and {_gib(memory.available)} were available"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
