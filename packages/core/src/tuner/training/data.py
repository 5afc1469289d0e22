"""The data of a run: its plan, and caches that hold all that the plan needs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tuner.caching.conditionings import ConditioningCache
from tuner.caching.masks import MaskCache
from tuner.config import RunConfig
from tuner.data.masks import load_mask
from tuner.data.order import epoch_at
from tuner.data.plan import Plan
from tuner.data.report import format_plan
from tuner.data.sample import Sample
from tuner.tracking.bars import reporting
from tuner.training.caches import conditioning_cache, mask_cache
from tuner.training.fetching import pictures_at_hand
from tuner.training.latents import LatentSource
from tuner.training.planning import Planner, open_index, side_limit
from tuner.training.session import Session, release_memory
from tuner.types import Conditioning, Role
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
    at_hand = pictures_at_hand(session.config, fetch=True)
    config = at_hand.config
    index = open_index(config)
    longest = side_limit(session.source, session.facts)
    check_sides(session.loaded, longest)
    planner = Planner(config, session.facts, session.seed, index, longest)
    masks = mask_cache(session, index)
    datasets = (*config.datasets, *config.eval_datasets) if config.evaluates_loss else config.datasets
    latents = LatentSource(session, datasets, index)
    excluded: dict[str, str] = {}
    while True:
        plan, evaluated = planner.training(excluded), planner.evaluated(excluded)
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
