"""What a measuring process sets up: the product's loop, and the bare one on the same data."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bare import BareBatch, BareLoop
from tuner.config.loading import LoadedConfig, load_config
from tuner.events import RunStarted
from tuner.plugins import create_manager
from tuner.training.interruption import StopRequest
from tuner.training.run import Run, prepare_run
from tuner.types import ComponentRequest

STORED = 6
"""Batches that the bare loop holds in memory."""
WARM_UP = 3
"""Rounds that count for nothing."""
SHORTEST = 10
"""Least number of rounds that a median is taken over."""
_SHIFT = "shift"


@dataclass(frozen=True)
class Product:
    """The product's run, ready for its first step, and the data of its first batches."""

    loaded: LoadedConfig
    run: Run
    batches: Sequence[BareBatch]
    shift: float

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self.run.session.device

    def steps(self) -> Iterator[int]:
        """Take steps for as long as asked to, with every extension listening."""
        return steps_of(self.run)


def steps_of(run: Run) -> Iterator[int]:
    """Take the steps of a run for as long as asked to, with every extension listening."""
    session = run.session
    session.hook.run_started(
        event=RunStarted(session.config, 0, run.last, session.config.model.output_dir, session.facts)
    )
    return run.loop(session.accelerator.backward).run(0, run.last)


def load_case(config: Path, kind: str, batch: int, settings: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Read the project's configuration for a way of training, a batch size and other settings."""
    output = tempfile.mkdtemp(dir=config.parent)
    model_type = "full" if kind == "full" else "lora"
    given = {"model_type": model_type, "train_batch_size": str(batch), "output_dir": output}
    return load_config(config, {**given, **(settings or {})})


def prepare_product(config: Path, kind: str, batch: int) -> Product:
    """Prepare the product's run, and keep its first batches for bare loops."""
    loaded = load_case(config, kind, batch)
    run = prepare_run(loaded, StopRequest())
    drawn = [run.source.step(step)[0] for step in range(STORED)]
    batches = [BareBatch(each.latents, dict(each.conditioning)) for each in drawn]
    height, width = drawn[0].latents.shape[-2:]
    patch = loaded.family.facts.patch_size
    shift = run.source.schedule.shift_for((height // patch) * (width // patch))
    _store(_stored(config, batch), batches, shift)
    return Product(loaded, run, batches, shift)


def prepare_bare(loaded: LoadedConfig, batches: Sequence[BareBatch], shift: float) -> BareLoop:
    """Load a denoiser of its own for the bare loop."""
    config = loaded.config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if config.precision.mixed_precision == "no" else torch.bfloat16
    request = ComponentRequest(
        folder=Path(str(config.model.pretrained_model_name_or_path)),
        parts=frozenset({"denoiser"}),
        dtype=dtype,
        device=device,
        options=config.family,
    )
    components = create_manager(loaded.family).hook.load_components(request=request)
    return BareLoop(loaded, components.denoiser, batches, shift)


def stored_batches(config: Path, batch: int) -> tuple[list[BareBatch], float]:
    """Read the batches that `prepare_product` kept, and the shift."""
    with safe_open(_stored(config, batch), "pt") as file:
        shift = float(file.metadata()[_SHIFT])
        rows = [{} for _ in range(STORED)]
        for key in file.keys():  # noqa: SIM118 - the file is no mapping
            number, name = key.split("/")
            rows[int(number)][name] = file.get_tensor(key)
    return [BareBatch(row.pop("latents"), row) for row in rows], shift


def peak_memory() -> int:
    """Return the most bytes that this process has held: on the accelerator, or else resident in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times_in_turns(
    sides: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, in_a_row: int = 1
) -> dict[str, list[float]]:
    """Let steps take turns, in changing order, for so many seconds after the warm-up.

    Returns:
        Seconds per step of each side, round by round, those of the warm-up first.
    """
    times: dict[str, list[float]] = {side: [] for side in sides}
    deadline = float("inf")
    for number in count():
        if number == WARM_UP:
            deadline = time.perf_counter() + seconds
        if number >= WARM_UP + SHORTEST and time.perf_counter() > deadline:
            break
        for side in sorted(sides, reverse=bool(number % 2)):
            synchronise(device)
            started = time.perf_counter()
            for _ in range(in_a_row):
                sides[side]()
            synchronise(device)
            times[side].append((time.perf_counter() - started) / in_a_row)
    return times


def _store(path: Path, batches: Sequence[BareBatch], shift: float) -> None:
    tensors = {}
    for number, batch in enumerate(batches):
        tensors[f"{number}/latents"] = batch.latents.contiguous()
        tensors.update({f"{number}/{name}": tensor.contiguous() for name, tensor in batch.conditioning.items()})
    save_file(tensors, path, metadata={_SHIFT: str(shift)})


def _stored(config: Path, batch: int) -> Path:
    return config.parent / f"batches-{batch}.safetensors"
