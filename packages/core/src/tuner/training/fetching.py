"""Pictures that are not in local folders: fetched before a run, or as an earlier run left them."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.config import RunConfig
from tuner.config.datasets import DatasetConfig
from tuner.data.plan import Unused
from tuner.data.sources.localise import localise, source_problems
from tuner.errors import ConfigError
from tuner.tracking.bars import reporting


@dataclass(frozen=True)
class AtHand:
    """A configuration whose data sets are all in local folders.

    Attributes:
        config: The configuration; data sets that are not at hand are left out.
        unused: Pictures that could not be fetched.
        absent: Ids of the data sets that are not at hand, with their types.
    """

    config: RunConfig
    unused: tuple[Unused, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()


def pictures_at_hand(config: RunConfig, *, fetch: bool) -> AtHand:
    """Bring the pictures of all data sets to local folders.

    Args:
        config: The configuration.
        fetch: Whether to fetch what is missing or has changed. Otherwise what an earlier call fetched is taken, and
            nothing is changed.

    Raises:
        ConfigError: Data sets that cannot be fetched as they are configured; all of them at once.
        DatasetError: A source cannot be reached or read, or gives no picture.
    """
    folder = config.caching.cache_dir
    every = (*config.datasets, *config.eval_datasets)
    if all(dataset.type == "local" for dataset in every):
        return AtHand(config)
    if problems := source_problems(every, folder):
        raise ConfigError(problems)
    local: dict[str, DatasetConfig] = {}
    unused: list[Unused] = []
    absent: list[tuple[str, str]] = []
    for dataset in every:
        with reporting(f"pictures of {dataset.id}", "file") as progress:
            found = localise(dataset, folder, offline=not fetch, progress=progress)
        unused += found.unused
        if found.dataset is None:
            absent.append((dataset.id, dataset.type))
        else:
            local[dataset.id] = found.dataset
    groups = {
        name: tuple(local[dataset.id] for dataset in getattr(config, name) if dataset.id in local)
        for name in ("datasets", "eval_datasets")
    }
    return AtHand(config.model_copy(update=groups), tuple(unused), tuple(absent))
