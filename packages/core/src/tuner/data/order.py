"""The order of batches: a pure function of plan, seed and position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.data.plan import Plan
from tuner.data.sample import Sample
from tuner.randomness import generator

_EPOCHS_REMEMBERED = 2  # a reader that works ahead asks for the next epoch before the current one is over


@dataclass(frozen=True)
class Draw:
    """One use of a picture in an epoch.

    Attributes:
        sample: The picture.
        repeat: Which pass over it this is, from 0 to the repeats of its data set.
    """

    sample: Sample
    repeat: int

    @property
    def key(self) -> str:
        """Names the draw, unique within an epoch."""
        return f"{self.sample.key}#{self.repeat}"


class EpochOrder(NamedTuple):
    """The order of one epoch.

    Attributes:
        draws: For each bucket, a permutation of its draws; draw d is pass d // n over sample d % n.
        batches: Rows (bucket, index of its first draw), in the order in which they are taken.
    """

    draws: tuple[NDArray[np.int64], ...]
    batches: NDArray[np.int64]


def batches_per_epoch(plan: Plan, world_size: int = 1) -> int:
    """Return how many micro-batches each of `world_size` processes takes until every sample was seen."""
    total = sum(bucket.batches(plan.batch_size) for bucket in plan.buckets)
    return -(-total // world_size)


def steps_per_epoch(plan: Plan, world_size: int = 1) -> int:
    """Return how many optimizer steps an epoch takes; the last one may reach into the next epoch."""
    return -(-batches_per_epoch(plan, world_size) // plan.accumulation)


def micro_batch(plan: Plan, seed: int, index: int) -> tuple[Draw, ...]:
    """Return the micro-batch at `index`, counted from 0 over all epochs. All its pictures are of one size."""
    epoch, position = divmod(index, batches_per_epoch(plan))
    order = _epoch_order(plan, seed, epoch)
    number, start = (int(value) for value in order.batches[position])
    samples = plan.buckets[number].samples
    chosen = order.draws[number][start : start + plan.batch_size].tolist()
    return tuple(Draw(samples[draw % len(samples)], draw // len(samples)) for draw in chosen)


def _epoch_order(plan: Plan, seed: int, epoch: int) -> EpochOrder:
    order = plan.orders.get((seed, epoch))
    if order is None:
        order = _shuffle(plan, seed, epoch)
        plan.orders[seed, epoch] = order
        for old in list(plan.orders)[:-_EPOCHS_REMEMBERED]:
            plan.orders.pop(old, None)
    return order


def _shuffle(plan: Plan, seed: int, epoch: int) -> EpochOrder:
    draws, batches = [], []
    for number, bucket in enumerate(plan.buckets):
        draws.append(generator(seed, "order", epoch, bucket.id).permutation(bucket.draws))
        starts = np.arange(0, bucket.draws, plan.batch_size)
        batches.append(np.stack([np.full_like(starts, number), starts], axis=1))
    return EpochOrder(tuple(draws), generator(seed, "batches", epoch).permutation(np.concatenate(batches)))
