"""What a configuration needs of each cache folder that it names; loads no model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tuner.caching.store import ShardStore
from tuner.config import RunConfig
from tuner.data.index import FileIndex
from tuner.data.plan import Plan
from tuner.data.sample import Sample
from tuner.errors import DatasetError
from tuner.training.caches import (
    conditioning_cache,
    latent_caches,
    latents_folder,
    mask_cache,
    masks_folder,
    text_folder,
)
from tuner.training.data import needed_prompts
from tuner.training.fetching import pictures_at_hand
from tuner.training.planning import Planner, open_index, side_limit
from tuner.training.session import Session


@dataclass(frozen=True)
class CacheNeeds:
    """A cache folder.

    Attributes:
        holds: What the configuration keeps there, such as "latents of cats".
        store: Its entries.
        needed: Keys of the entries that the configuration needs.
    """

    holds: tuple[str, ...]
    store: ShardStore
    needed: frozenset[str]


def cache_folders(config: RunConfig) -> dict[Path, list[str]]:
    """Return the cache folders that a configuration names -> what each of them holds."""
    folders: dict[Path, list[str]] = defaultdict(list)
    for dataset in (*config.datasets, *config.eval_datasets):
        folders[latents_folder(config, dataset)].append(f"latents of {dataset.id}")
    if config.masks:
        folders[masks_folder(config)].append("masks")
    folders[text_folder(config)].append("conditionings")
    return folders


def cache_needs(session: Session) -> list[CacheNeeds]:
    """Plan the data and say what each cache folder must hold for it.

    Data sets that keep no latents need none; those that crop anew in every epoch need the crops of the first.
    Nothing is downloaded or fetched.

    Raises:
        TunerError: The data cannot be planned, or it or the model whose weights decide on keys is not on this machine.
    """
    config = _local(session.config)
    session = replace(session, source=replace(session.source, download=False))
    needed: dict[Path, set[str]] = defaultdict(set)
    with closing(open_index(config)) as index:
        plans = _plans(session, config, index)
        masks, conditionings = mask_cache(session, index), conditioning_cache(session)
        kept = [item for item in (*config.datasets, *config.eval_datasets) if not item.vae_cache_disable]
        for name, latents in latent_caches(session, kept, index).items():
            samples = (sample for sample in _samples(plans) if sample.dataset == name)
            needed[latents.store.folder] |= _keys(latents.key_of, samples)
        masked = (sample for sample in _samples(plans) if sample.mask is not None)
        needed[masks.store.folder] |= _keys(masks.key_of, masked)
        for plan in plans:
            prompts = dict.fromkeys(needed_prompts(config, plan))
            needed[conditionings.store.folder] |= {conditionings.key_of(*prompt) for prompt in prompts}
    return [
        CacheNeeds(tuple(holds), ShardStore(folder), frozenset(needed[folder]))
        for folder, holds in cache_folders(config).items()
    ]


def _local(config: RunConfig) -> RunConfig:
    """Return the configuration with the folders that pictures were fetched to."""
    at_hand = pictures_at_hand(config, fetch=False)
    if at_hand.absent:
        names = ", ".join(repr(name) for name, _ in at_hand.absent)
        raise DatasetError(
            f"the pictures of {names} are not on this machine, so nobody can say which entries they need\n"
            "    -> `tuner cache` fetches them"
        )
    return at_hand.config


def _plans(session: Session, config: RunConfig, index: FileIndex) -> list[Plan]:
    """Return the plans of what is trained on and of what is evaluated with."""
    longest = side_limit(session.source, session.facts, download=False)
    planner = Planner(config, session.facts, session.seed, index, longest)
    plan, evaluated = planner.training(), planner.evaluated()
    return [plan, evaluated] if evaluated else [plan]


def _samples(plans: Iterable[Plan]) -> Iterable[Sample]:
    return (sample for plan in plans for bucket in plan.buckets for sample in bucket.samples)


def _keys(key_of: Callable[[Sample], str], samples: Iterable[Sample]) -> set[str]:
    """Return the keys of samples; what cannot be read has none, and filling reports it."""
    keys = set()
    for sample in samples:
        try:
            keys.add(key_of(sample))
        except (OSError, DatasetError):
            continue
    return keys
