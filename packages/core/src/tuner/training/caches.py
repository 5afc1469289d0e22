"""The caches of a run: where they lie, and what their keys are made of."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

from tuner.caching.conditionings import ConditioningCache
from tuner.caching.latents import LatentCache
from tuner.caching.masks import MaskCache
from tuner.caching.store import ShardStore
from tuner.config import RunConfig
from tuner.config.datasets import DatasetConfig
from tuner.data.index import FileIndex
from tuner.training.session import Session, fingerprint_of


def latents_folder(config: RunConfig, dataset: DatasetConfig) -> Path:
    """Return the folder of a data set's latents."""
    return dataset.cache_dir_vae or config.caching.cache_dir / "latents"


def masks_folder(config: RunConfig) -> Path:
    """Return the folder of masks."""
    return config.caching.cache_dir / "masks"


def text_folder(config: RunConfig) -> Path:
    """Return the folder of conditionings."""
    entry = config.text_cache
    return entry.cache_dir if entry and entry.cache_dir else config.caching.cache_dir / "text"


def latent_caches(session: Session, datasets: Iterable[DatasetConfig], index: FileIndex) -> dict[str, LatentCache]:
    """Return the caches of the latents of data sets, by id; those with one folder share its store."""
    stores: dict[Path, ShardStore] = {}
    caches = {}
    for dataset in datasets:
        folder = latents_folder(session.config, dataset)
        stores[folder] = stores.get(folder) or ShardStore(folder)
        caches[dataset.id] = _latent_cache(session, stores[folder], index)
    return caches


def _latent_cache(session: Session, store: ShardStore, index: FileIndex) -> LatentCache:
    facts = session.facts
    return LatentCache(
        store,
        content_hash=index.content_hash,
        family_name=facts.name,
        vae_fingerprint=fingerprint_of(session, "codec"),
        dtype=session.dtypes.codec,
        codec_version=codec_version(session),
    )


def codec_version(session: Session) -> str:
    """Return what of the way of encoding decides on numbers: tiles are encoded apart, so they differ from a whole."""
    version = session.facts.codec_version
    return f"{version} tiled" if session.config.memory.vae_enable_tiling else version


def mask_cache(session: Session, index: FileIndex) -> MaskCache:
    """Return the cache of masks."""
    return MaskCache(ShardStore(masks_folder(session.config)), index.content_hash, session.facts.latent_stride)


def conditioning_cache(session: Session) -> ConditioningCache:
    """Return the cache of conditionings."""
    read = session.facts.text_options
    return ConditioningCache(
        ShardStore(text_folder(session.config)),
        family_name=session.facts.name,
        # Prompts are prepared by these libraries, so another version of theirs may mean another conditioning.
        encoder_fingerprint=" ".join(
            [fingerprint_of(session, "text_encoders"), _versions("diffusers", "transformers"), *_stored(session)]
        ),
        dtype=session.dtypes.encoders,
        options_json=session.config.family.model_dump_json(include=None if read is None else set(read)),
    )


def _stored(session: Session) -> Iterable[str]:
    """Yield how each quantised text encoder is stored, and by which version of which library."""
    for part in session.stored:
        if part.part == "text_encoders":
            yield f"{part.folder} {part.scheme.name} {_versions(part.scheme.library.package)}"


def _versions(*packages: str) -> str:
    return " ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
