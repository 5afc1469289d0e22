"""Sorting a data set's samples into buckets, and leaving out buckets that fill no batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.config.datasets import DatasetConfig
from tuner.data.geometry import Size
from tuner.data.plan import Bucket, Unused
from tuner.data.sample import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchRules:
    """How samples are put into batches.

    Attributes:
        batch_size: Samples in a micro-batch, unless a data set has its own number.
        accumulation: Micro-batches in an optimizer step, those of all processes together.
        processes: Processes that share them.
        aspect_rounding: Decimals of the aspect that names a bucket.
        keep_small: Keep buckets that give fewer samples per epoch than a batch holds.
        oversubscribe: Raise repeats, where a data set gives none, until each of its buckets fills a batch.
    """

    batch_size: int
    accumulation: int
    processes: int
    aspect_rounding: int
    keep_small: bool
    oversubscribe: bool

    def batch_size_of(self, dataset: DatasetConfig) -> int:
        """Return how many samples a micro-batch of a data set holds."""
        return dataset.train_batch_size or self.batch_size


def make_buckets(
    dataset: DatasetConfig, sizes: Mapping[Size, Sequence[Sample]], rules: BatchRules
) -> tuple[list[Bucket], list[Unused]]:
    """Make the buckets of a data set, and prune those that fill no batch."""
    batch_size = rules.batch_size_of(dataset)
    repeats = _repeats(dataset, sizes, rules)
    kept, pruned = [], []
    for size, samples in sorted(sizes.items()):
        aspect = round(size[0] / size[1], rules.aspect_rounding)
        bucket = Bucket(dataset.id, size, aspect, tuple(samples), repeats, batch_size)
        if rules.keep_small or bucket.draws >= batch_size:
            kept.append(bucket)
        else:
            pruned += _pruned(bucket, rules.accumulation)
    return kept, pruned


def _repeats(dataset: DatasetConfig, sizes: Mapping[Size, Sequence[Sample]], rules: BatchRules) -> int:
    if not rules.oversubscribe or "repeats" in dataset.model_fields_set:
        return dataset.repeats
    batch_size = rules.batch_size_of(dataset)
    needed = max((_repeats_for(batch_size, len(samples)) for samples in sizes.values()), default=0)
    if needed <= dataset.repeats:
        return dataset.repeats
    logger.warning(
        "data set %s: repeats raised from %d to %d, so that each of its buckets fills a batch of %d "
        "(allow_dataset_oversubscription)",
        dataset.id,
        dataset.repeats,
        needed,
        batch_size,
    )
    return needed


def _repeats_for(samples: int, images: int) -> int:
    """Return the fewest repeats with which a bucket of `images` gives `samples` per epoch."""
    return -(-samples // images) - 1 if samples > images else 0


def _pruned(bucket: Bucket, accumulation: int) -> list[Unused]:
    images, draws, batch_size = len(bucket.samples), bucket.draws, bucket.batch_size
    count = f"{draws} sample{'s' if draws != 1 else ''}"
    reason = (
        f"its bucket {bucket.size[0]}x{bucket.size[1]} gives {count} per epoch, "
        f"fewer than train_batch_size {batch_size}"
    )
    step = batch_size * accumulation
    whole = f" ({_repeats_for(step, images)} or more for all {step} samples of an optimizer step)"
    remedy = (
        f"set repeats to {_repeats_for(batch_size, images)} or more{whole if accumulation > 1 else ''}, "
        f"train_batch_size to {draws}, or disable_bucket_pruning to true"
    )
    return [Unused(bucket.dataset, sample.key, reason, remedy) for sample in bucket.samples]
