"""What every stage of a run needs: the configuration, the plugins, the base model and the device."""

from __future__ import annotations

import gc
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tuner.config import RunConfig
from tuner.config.loading import LoadedConfig
from tuner.config.storage import StoredPart, stored_parts
from tuner.plugins import create_extensions, create_manager
from tuner.tracking.bars import hide_library_bars
from tuner.training.base_model import BaseIdentity, base_identity, memo_of, part_fingerprint
from tuner.training.casting import Dtypes, cast_operations
from tuner.training.codec_memory import spare_codec
from tuner.training.processes import Processes
from tuner.training.sources import ModelFolders, ModelSource, fetch_parts, resolve_source
from tuner.training.storage import check_devices, store_components
from tuner.types import ComponentRequest, Components, FamilyFacts, Part

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """A run's surroundings.

    Attributes:
        loaded: The checked configuration.
        hook: The hooks of the run's one plugin manager.
        source: The base model.
        accelerator: Devices, as accelerate finds them.
        seed: The seed in force.
        processes: Those that train together.
    """

    loaded: LoadedConfig
    hook: Any
    source: ModelSource
    accelerator: Accelerator
    seed: int
    processes: Processes = Processes()  # noqa: RUF009 - it is frozen

    @property
    def config(self) -> RunConfig:
        """The configuration."""
        return self.loaded.config

    @property
    def facts(self) -> FamilyFacts:
        """The family's facts."""
        return self.loaded.family.facts

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return self.accelerator.device

    @cached_property
    def dtypes(self) -> Dtypes:
        """The dtypes of the model's parts."""
        return Dtypes.of(self.config.precision, self.facts)

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return self.dtypes.compute

    @property
    def shards(self) -> bool:
        """Whether the denoiser is shared out over processes."""
        return self.config.shards and not self.processes.is_alone

    def load(self, *parts: Part, folder: Path | None = None, device: torch.device | None = None) -> Components:
        """Load parts of the base model, or of the model in `folder`, stored as the precision settings say.

        They go to the run's device or to another one.
        """
        device = device or self.device
        stored = [part for part in self.stored if part.part in parts]
        folders = ModelFolders(folder) if folder else fetch_parts(self.source, parts, self.facts)
        request = ComponentRequest(
            folder=folders.root,
            borrowed=folders.borrowed,
            parts=frozenset(parts),
            dtype=self.dtype,
            dtypes=self.dtypes.by_part(trains_denoiser=self.config.model.model_type == "full"),
            # What is quantised goes to the device afterwards, when it is small.
            device=torch.device("cpu") if stored else device,
            options=self.config.family,
        )
        components: Components = self.hook.load_components(request=request)
        if stored:
            policy = self.hook.quantisation_policy(options=self.config.family)
            via = self.device if self.config.precision.quantize_via == "accelerator" else torch.device("cpu")
            store_components(components, stored, policy, via=via, device=device)
        if components.codec is not None:
            spare_codec(components.codec, self.config.memory)
        if components.denoiser is not None and self.dtypes.casts:
            cast_operations(components.denoiser, self.device, self.facts.exact_attention)
        return components

    @cached_property
    def base(self) -> BaseIdentity:
        """Which base model this is, to the byte. The contents of a local folder are read once and remembered."""
        return base_identity(self.source, self.facts, memo_of(self.config.caching.cache_dir))

    @cached_property
    def stored(self) -> tuple[StoredPart, ...]:
        """What is quantised."""
        return stored_parts(self.config.precision, self.config.model, self.facts)


def open_session(loaded: LoadedConfig, processes: Processes | None = None) -> Session:
    """Put plugins, base model and device together; nothing is loaded yet.

    Args:
        loaded: The configuration.
        processes: Those that train together; this one alone if not given.

    Raises:
        TunerError: The base model's folder is none, an extension is broken, or weights are to be stored in a format
            that the device cannot compute with.
    """
    processes = processes or Processes()
    hide_library_bars()
    extensions = create_extensions(loaded.config)
    manager = create_manager(loaded.family, extensions)
    source = resolve_source(loaded.config.model, loaded.family.facts)
    accelerator = Accelerator(mixed_precision="no")
    (seed, *_) = processes.gather(_seed(loaded.config.model.seed))
    session = Session(loaded, manager.hook, source, accelerator, seed, processes)
    check_devices(session.stored, session.device)
    return session


def fingerprint_of(session: Session, part: Part) -> str:
    """Return a hash of the weights and configurations of a part of the base model; fetches them where they lack.

    Raises:
        TunerError: They are not there, or cannot be read or fetched.
    """
    return part_fingerprint(session.source, session.facts, part, memo_of(session.config.caching.cache_dir))


@contextmanager
def quick_collections() -> Iterator[None]:
    """Let garbage be looked for only among what is made inside the block.

    Imported libraries are more than half a million objects; going through them takes the better part of a second every
    time that memory is released.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_memory() -> None:
    """Give memory of dropped components back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _seed(configured: int) -> int:
    if configured == -1:
        return secrets.randbelow(2**31 - 1) + 1
    return time.time_ns() % (2**31 - 1) if configured == 0 else configured
