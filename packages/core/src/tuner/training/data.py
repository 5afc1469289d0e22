"""The data of a run: its plan, and caches that hold all that the plan needs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuner.caching.conditionings import ConditioningCache
from tuner.caching.masks import MaskCache
from tuner.config import RunConfig
from tuner.config.launch import LaunchConfig
from tuner.data.build import build_plan
from tuner.data.index import FileIndex
from tuner.data.masks import load_mask
from tuner.data.order import epoch_at, sampling_weights
from tuner.data.plan import Plan
from tuner.data.report import format_plan
from tuner.data.sample import Sample
from tuner.tracking.bars import reporting
from tuner.training.caches import conditioning_cache, mask_cache
from tuner.training.fetching import pictures_at_hand
from tuner.training.latents import LatentSource
from tuner.training.session import Session, release_memory
from tuner.training.sources import ModelSource, denoiser_config
from tuner.types import Conditioning, FamilyFacts, Role
from tuner.validation.pictures import check_sides, picture_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """Plans of what is trained on and evaluated with, whose latents and conditionings are all cached."""

    plan: Plan
    masks: MaskCache
    latents: LatentSource
    conditionings: ConditioningCache
    evaluation: Plan | None = None

    def in_epoch(self, sample: Sample, epoch: int) -> Sample:
        """Return a sample as it is cropped in an epoch, its latent and its mask at hand."""
        turned = self.latents.in_epoch(sample, epoch)
        if turned.mask is not None and self.masks.key_of(turned) not in self.masks.store:
            samples = self.latents.samples_in(sample.dataset, epoch)
            self.masks.fill(samples, load_mask=load_mask, write_batch_size=len(samples))
        return turned


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
    plan = build_plan(
        config.datasets,
        batch_size=config.optimisation.train_batch_size,
        accumulation=config.optimisation.gradient_accumulation_steps,
        processes=config.launch.num_processes,
        alignment=facts.pixel_alignment,
        aspect_rounding=config.data.aspect_bucket_rounding,
        keep_small_buckets=config.data.disable_bucket_pruning,
        oversubscribe=config.data.allow_dataset_oversubscription,
        seed=seed,
        index=index,
        canvas_limit=facts.canvas_limit,
        side_limit=side_limit,
        stride=facts.latent_stride * facts.patch_size,
        excluded=excluded or {},
        mask_folders=mask_folders(config),
    )
    weights = sampling_weights(
        {dataset.id: dataset.probability for dataset in config.datasets},
        plan.buckets,
        by_size=config.data.data_backend_sampling == "auto-weighting",
    )
    return replace(plan, weights=weights)


def plan_evaluation(
    config: RunConfig,
    facts: FamilyFacts,
    seed: int,
    index: FileIndex,
    *,
    side_limit: int | None = None,
    excluded: Mapping[str, str] | None = None,
) -> Plan:
    """Plan the data sets that are evaluated with: picture by picture, each bucket however small, without masks.

    Raises:
        DatasetError: A data set has nothing to evaluate with.
    """
    one_by_one = {"train_batch_size": 1, "gradient_accumulation_steps": 1}
    evaluated = config.model_copy(
        update={
            "datasets": tuple(entry.model_copy(update={"train_batch_size": None}) for entry in config.eval_datasets),
            "optimisation": config.optimisation.model_copy(update=one_by_one),
            "data": config.data.model_copy(update={"disable_bucket_pruning": True}),
            "launch": LaunchConfig(),
            "masks": (),
        }
    )
    return plan_data(evaluated, facts, seed, index, side_limit=side_limit, excluded=excluded)


def plan_evaluated(
    config: RunConfig,
    facts: FamilyFacts,
    seed: int,
    index: FileIndex,
    *,
    side_limit: int | None = None,
    excluded: Mapping[str, str] | None = None,
) -> Plan | None:
    """Plan what a run evaluates with: of each data set the first pictures by name, each with its first caption.

    Returns:
        The plan, or None where the run takes no loss on evaluation data.

    Raises:
        DatasetError: A data set has nothing to evaluate with.
    """
    if not config.evaluates_loss:
        return None
    plan = plan_evaluation(config, facts, seed, index, side_limit=side_limit, excluded=excluded)
    kept: set[str] = set()
    for dataset in config.eval_datasets:
        keys = sorted(item.key for bucket in plan.buckets if bucket.dataset == dataset.id for item in bucket.samples)
        kept.update(keys[: config.evaluation.num_eval_images])
    buckets = []
    for bucket in plan.buckets:
        samples = [replace(item, captions=item.captions[:1]) for item in bucket.samples if item.key in kept]
        if samples:
            buckets.append(replace(bucket, samples=tuple(samples), repeats=0))
    return replace(plan, buckets=tuple(buckets), weights=())


def mask_folders(config: RunConfig) -> dict[str, Path]:
    """Return data set -> folder of its masks."""
    return {
        dataset.id: mask.instance_data_dir
        for dataset in config.datasets
        for mask in config.masks
        if mask.id == dataset.conditioning_data
    }


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


def prepare_data(session: Session, first_step: int = 0) -> PreparedData:
    """Plan the data and fill the caches; encoders are loaded only for what is missing, and released again.

    Args:
        session: The run's surroundings.
        first_step: Optimizer steps taken before, which decide on the crops of data sets that change theirs.

    Raises:
        ConfigError: Pictures are to be larger than the model takes.
        DatasetError: A data set has nothing to train on.
        CacheError: A cache cannot be written.
        NonFiniteError: An encoder gave NaN or infinite values.
    """
    facts = session.facts
    at_hand = pictures_at_hand(session.config, fetch=True)
    config = at_hand.config
    index = open_index(config)
    longest = side_limit(session.source, facts)
    check_sides(session.loaded, longest)
    masks = mask_cache(session, index)
    datasets = (*config.datasets, *config.eval_datasets) if config.evaluates_loss else config.datasets
    latents = LatentSource(session, datasets, index)
    excluded: dict[str, str] = {}
    while True:
        plan = plan_data(config, facts, session.seed, index, side_limit=longest, excluded=excluded)
        evaluated = plan_evaluated(config, facts, session.seed, index, side_limit=longest, excluded=excluded)
        plans = [plan, evaluated] if evaluated else [plan]
        latents.use(*plans)
        first = first_step * plan.accumulation
        unreadable = latents.fill({item.id: epoch_at(plan, session.seed, first, item.id) for item in config.datasets})
        unreadable |= _fill_masks(config, plan, masks)
        # Others take the place of pictures to evaluate with that turn out to be damaged, and must be encoded as well.
        if not unreadable.keys() - excluded.keys():
            break
        excluded |= unreadable
    logger.info("%s", format_plan(replace(plan, unused=(*at_hand.unused, *plan.unused))))
    if evaluated:
        logger.info("to evaluate with:\n%s", format_plan(evaluated))
    conditionings = _fill_conditionings(session, plans)
    return PreparedData(plan, masks, latents, conditionings, evaluated)


def _fill_masks(config: RunConfig, plan: Plan, cache: MaskCache) -> Mapping[str, str]:
    samples = [sample for bucket in plan.buckets for sample in bucket.samples if sample.mask is not None]
    if not samples:
        return {}
    report = cache.fill(samples, load_mask=load_mask, write_batch_size=config.caching.write_batch_size)
    logger.info("masks: %d read, %d found in the cache", report.encoded, report.reused)
    return report.unreadable


def _fill_conditionings(session: Session, plans: Sequence[Plan]) -> ConditioningCache:
    config = session.config
    entry, cache = config.text_cache, conditioning_cache(session)

    @functools.cache
    def open_encoder() -> Callable[[Sequence[str], Role], Conditioning]:
        components = session.load("text_encoders")
        return lambda prompts, role: session.hook.encode_prompt(components=components, prompts=prompts, role=role)

    with reporting("conditionings", "prompt") as progress:
        report = cache.fill(
            dict.fromkeys(request for plan in plans for request in needed_prompts(config, plan)),
            open_encoder=open_encoder,
            # Alone, no row carries padding that came from the rows encoded beside it.
            batch_size=1 if session.facts.conditioning_padding else 8,
            write_batch_size=(entry.write_batch_size if entry else None) or config.caching.write_batch_size,
            # Pictures can be made again from their prompts, to the bit.
            alone=set(picture_requests(config)),
            progress=progress,
        )
    logger.info("conditionings: %d encoded, %d found in the cache", report.encoded, report.reused)
    release_memory()
    return cache


def needed_prompts(config: RunConfig, plan: Plan) -> Iterable[tuple[str, Role]]:
    """Yield every prompt that a run will read, with its role; some more than once."""
    yield "", "unconditional"
    yield from picture_requests(config)
    for bucket in plan.buckets:
        for sample in bucket.samples:
            for caption in sample.captions:
                yield caption, "caption"


def picture_requests(config: RunConfig) -> Iterable[tuple[str, Role]]:
    """Yield every prompt that pictures are made with, with its role."""
    for prompt in picture_prompts(config):
        yield prompt.prompt, prompt.role
    if config.validation.validation_guidance > 1 and picture_prompts(config):
        yield config.validation.validation_negative_prompt, "negative"
