"""The data of a run: its plan, and caches that hold all that the plan needs."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tuner.caching.conditionings import ConditioningCache
from tuner.caching.fingerprints import weights_fingerprint
from tuner.caching.latents import LatentCache
from tuner.caching.masks import MaskCache
from tuner.caching.store import ShardStore
from tuner.config import RunConfig
from tuner.data.build import build_plan
from tuner.data.images import load_pixels
from tuner.data.index import FileIndex
from tuner.data.masks import load_mask
from tuner.data.plan import Plan
from tuner.data.report import format_plan
from tuner.data.sample import Sample
from tuner.tracking.bars import Progress
from tuner.training.session import Session, release_memory
from tuner.training.sources import ModelSource, denoiser_config, fetch_parts
from tuner.types import Conditioning, FamilyFacts, LatentCodec, Part, Role
from tuner.validation.pictures import picture_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """A plan whose latents and conditionings are all cached."""

    plan: Plan
    masks: MaskCache
    latents: LatentCaches
    conditionings: ConditioningCache


def plan_data(
    config: RunConfig,
    facts: FamilyFacts,
    seed: int,
    index: FileIndex,
    *,
    side_limit: int | None = None,
    excluded: Mapping[str, str] | None = None,
) -> Plan:
    """Plan buckets and batches; reads file headers only.

    Args:
        config: The configuration.
        facts: The family's facts.
        seed: The run's seed.
        index: Memo of file sizes.
        side_limit: Longest side of a picture, in pixels, see `side_limit`.
        excluded: Sample key -> why it must not be used.

    Raises:
        DatasetError: A data set has nothing to train on.
    """
    return build_plan(
        config.datasets,
        batch_size=config.optimisation.train_batch_size,
        accumulation=config.optimisation.gradient_accumulation_steps,
        alignment=facts.pixel_alignment,
        aspect_rounding=config.data.aspect_bucket_rounding,
        keep_small_buckets=config.data.disable_bucket_pruning,
        seed=seed,
        index=index,
        canvas_limit=facts.canvas_limit,
        side_limit=side_limit,
        stride=facts.latent_stride * facts.patch_size,
        excluded=excluded or {},
        mask_folders={
            dataset.id: mask.instance_data_dir
            for dataset in config.datasets
            for mask in config.masks
            if mask.id == dataset.conditioning_data
        },
    )


def side_limit(source: ModelSource, facts: FamilyFacts, download: bool = True) -> int | None:
    """Return the longest side that the model takes, in pixels, where its weights set one.

    None too if they are not at hand and `download` is false.
    """
    if facts.side_limit is None:
        return None
    config = denoiser_config(source, facts, download)
    return None if config is None else facts.side_limit(config)


def open_index(config: RunConfig) -> FileIndex:
    """Open the memo of file sizes and hashes that plans share."""
    return FileIndex(config.caching.cache_dir)


class LatentCaches:
    """The latents of all data sets, each in the folder that its entry names."""

    def __init__(self, caches: Mapping[str, LatentCache]) -> None:
        self._caches = caches

    def read(self, sample: Sample) -> Tensor:
        """Return the latent of a sample, without batch dimension."""
        return self._caches[sample.dataset].read(sample)


def prepare_data(session: Session) -> PreparedData:
    """Plan the data and fill the caches; encoders are loaded only for what is missing, and released again.

    Raises:
        DatasetError: A data set has nothing to train on.
        CacheError: A cache cannot be written.
        NonFiniteError: An encoder gave NaN or infinite values.
    """
    config, facts = session.config, session.facts
    index = open_index(config)
    longest = side_limit(session.source, facts)
    plan = plan_data(config, facts, session.seed, index, side_limit=longest)
    masks = MaskCache(ShardStore(config.caching.cache_dir / "masks"), index.content_hash, facts.latent_stride)
    latents, unreadable = _fill_latents(session, plan, index)
    unreadable |= _fill_masks(config, plan, masks)
    if unreadable:
        plan = plan_data(config, facts, session.seed, index, side_limit=longest, excluded=unreadable)
    logger.info("%s", format_plan(plan))
    conditionings = _fill_conditionings(session, plan)
    return PreparedData(plan, masks, latents, conditionings)


def _fill_latents(session: Session, plan: Plan, index: FileIndex) -> tuple[LatentCaches, dict[str, str]]:
    config, facts = session.config, session.facts
    fingerprint = _fingerprint(session, "codec")
    caches: dict[str, LatentCache] = {}
    unreadable: dict[str, str] = {}
    opened: list[LatentCodec] = []

    def open_codec() -> LatentCodec:
        if not opened:
            codec = session.load("codec").codec
            assert codec is not None  # asked for, so the contract promises it
            opened.append(codec)
        return opened[0]

    for dataset in config.datasets:
        cache = LatentCache(
            ShardStore(dataset.cache_dir_vae or config.caching.cache_dir / "latents"),
            content_hash=index.content_hash,
            family_name=facts.name,
            vae_fingerprint=fingerprint,
            dtype=session.codec_dtype,
            codec_version=facts.codec_version,
        )
        samples = [sample for bucket in plan.buckets if bucket.dataset == dataset.id for sample in bucket.samples]
        with _bar(f"latents of {dataset.id}", "picture") as progress:
            report = cache.fill(
                samples,
                load_pixels=load_pixels,
                open_codec=open_codec,
                batch_size=config.caching.vae_batch_size,
                write_batch_size=config.caching.write_batch_size,
                progress=progress,
            )
        logger.info("latents of %s: %d encoded, %d found in the cache", dataset.id, report.encoded, report.reused)
        unreadable.update(report.unreadable)
        caches[dataset.id] = cache
    opened.clear()
    release_memory()
    return LatentCaches(caches), unreadable


def _fill_masks(config: RunConfig, plan: Plan, cache: MaskCache) -> Mapping[str, str]:
    samples = [sample for bucket in plan.buckets for sample in bucket.samples if sample.mask is not None]
    if not samples:
        return {}
    report = cache.fill(samples, load_mask=load_mask, write_batch_size=config.caching.write_batch_size)
    logger.info("masks: %d read, %d found in the cache", report.encoded, report.reused)
    return report.unreadable


def _fill_conditionings(session: Session, plan: Plan) -> ConditioningCache:
    config = session.config
    entry, read = config.text_cache, session.facts.text_options
    cache = ConditioningCache(
        ShardStore(entry.cache_dir if entry and entry.cache_dir else config.caching.cache_dir / "text"),
        family_name=session.facts.name,
        # Prompts are prepared by these libraries, so another version of theirs may mean another conditioning.
        encoder_fingerprint=f"{_fingerprint(session, 'text_encoders')} {_versions('diffusers', 'transformers')}",
        dtype=session.dtype,
        options_json=config.family.model_dump_json(include=None if read is None else set(read)),
    )

    def open_encoder() -> Callable[[Sequence[str], Role], Conditioning]:
        components = session.load("text_encoders")
        return lambda prompts, role: session.hook.encode_prompt(components=components, prompts=prompts, role=role)

    with _bar("conditionings", "prompt") as progress:
        report = cache.fill(
            dict.fromkeys(needed_prompts(config, plan)),
            open_encoder=open_encoder,
            # Alone, no row carries padding that came from the rows encoded beside it.
            batch_size=1 if session.facts.conditioning_padding else 8,
            write_batch_size=(entry.write_batch_size if entry else None) or config.caching.write_batch_size,
            progress=progress,
        )
    logger.info("conditionings: %d encoded, %d found in the cache", report.encoded, report.reused)
    release_memory()
    return cache


def needed_prompts(config: RunConfig, plan: Plan) -> Iterable[tuple[str, Role]]:
    """Yield every prompt that a run will read, with its role; some more than once."""
    yield "", "unconditional"
    for prompt in picture_prompts(config):
        yield prompt.prompt, prompt.role
    if config.validation.validation_guidance > 1 and picture_prompts(config):
        yield config.validation.validation_negative_prompt, "negative"
    for bucket in plan.buckets:
        for sample in bucket.samples:
            for caption in sample.captions:
                yield caption, "caption"


def _versions(*packages: str) -> str:
    return " ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def _fingerprint(session: Session, part: Part) -> str:
    folders = fetch_parts(session.source, [part], session.facts)
    memo = session.config.caching.cache_dir / "fingerprints.json"
    names = session.facts.part_folders[part]
    return " ".join(weights_fingerprint(folders.path_of(name), ["."], memo) for name in names)


class _bar:  # noqa: N801 - used like a function
    """A progress bar that appears with the first report."""

    def __init__(self, description: str, unit: str) -> None:
        self._description, self._unit = description, unit
        self._progress: Progress | None = None

    def __enter__(self) -> Callable[[int, int], None]:
        return self._report

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.close()

    def _report(self, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = Progress(total, self._description, self._unit)
        self._progress.advance_to(done)
