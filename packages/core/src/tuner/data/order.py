"""The order of batches: a pure function of plan, seed and position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.data.plan import Bucket, Plan
from tuner.data.sample import Sample
from tuner.randomness import generator

_EPOCHS_REMEMBERED = 2  # a reader that works ahead asks for the next epoch before the current one is over
_PICKS = 4096  # picks of data sets that are drawn at once


@dataclass(frozen=True)
class Draw:
    """One use of a picture in an epoch.

    Attributes:
        sample: The picture.
        repeat: Which pass over it this is, from 0 to the repeats of its data set.
        epoch: Which epoch of the run; of its data set, where data sets are drawn from by weight.
    """

    sample: Sample
    repeat: int
    epoch: int

    @property
    def key(self) -> str:
        """Names the draw, unique within an epoch."""
        return f"{self.sample.key}#{self.repeat}"

    @property
    def name(self) -> str:
        """Names the draw, unique in the run: the same picture can come twice in a step that spans an epoch's end."""
        return f"{self.epoch}/{self.key}"


class EpochOrder(NamedTuple):
    """The order of one epoch.

    Attributes:
        draws: Bucket number -> a permutation of its draws; draw d is pass d // n over sample d % n.
        batches: Rows (bucket number, index of its first draw), in the order in which they are taken.
    """

    draws: dict[int, NDArray[np.int64]]
    batches: NDArray[np.int64]


class Picks(NamedTuple):
    """Some picks in a row of the data sets that micro-batches are taken from.

    Attributes:
        chosen: Number of the data set at each position.
        before: How often each data set was picked before the first of these.
    """

    chosen: NDArray[np.int64]
    before: NDArray[np.int64]


def batches_per_epoch(plan: Plan) -> int:
    """Return how many micro-batches all processes together take in an epoch.

    It is as many as all samples make up. Where data sets are drawn from by weight, an epoch is that long, too, though
    some samples come more often in it than others.
    """
    return sum(bucket.batches() for bucket in plan.buckets)


def steps_per_epoch(plan: Plan) -> int:
    """Return how many optimizer steps an epoch takes; the last one may reach into the next epoch."""
    return -(-batches_per_epoch(plan) // plan.accumulation)


def sampling_weights(
    probabilities: Mapping[str, float], buckets: Sequence[Bucket], *, by_size: bool
) -> tuple[tuple[str, float], ...]:
    """Return (data set, share of the micro-batches), or nothing where an epoch takes every batch exactly once.

    Args:
        probabilities: Data set -> its `probability`.
        buckets: The plan's buckets.
        by_size: Whether the number of a data set's batches counts too (auto-weighting), or not (uniform).
    """
    if by_size and len(set(probabilities.values())) <= 1:
        return ()
    batches = {name: sum(item.batches() for item in buckets if item.dataset == name) for name in probabilities}
    weights = {
        name: probability * (batches[name] if by_size else bool(batches[name]))
        for name, probability in probabilities.items()
    }
    total = sum(weights.values())
    return tuple((name, weight / total) for name, weight in weights.items() if weight > 0) if total else ()


def micro_batch(plan: Plan, seed: int, index: int) -> tuple[Draw, ...]:
    """Return the micro-batch at `index`, counted from 0 over all epochs. All its pictures are of one size."""
    dataset = None
    if plan.weights:
        number, index = _pick(plan, seed, index)
        dataset = plan.weights[number][0]
    buckets = _buckets(plan, dataset)
    epoch, position = divmod(index, sum(plan.buckets[number].batches() for number in buckets))
    order = _epoch_order(plan, seed, epoch, dataset)
    number, start = (int(value) for value in order.batches[position])
    bucket = plan.buckets[number]
    samples = bucket.samples
    chosen = order.draws[number][start : start + bucket.batch_size].tolist()
    return tuple(Draw(samples[draw % len(samples)], draw // len(samples), epoch) for draw in chosen)


def samples_before(plan: Plan, seed: int, index: int) -> int:
    """Return how many pictures the micro-batches before the one at `index` hold."""
    if not plan.weights:
        return _samples_taken(plan, seed, index, None)
    block, position = divmod(index, _PICKS)
    picks = _picks(plan, seed, block)
    taken = picks.before + np.bincount(picks.chosen[:position], minlength=len(plan.weights))
    return sum(
        _samples_taken(plan, seed, int(count), name) for count, (name, _) in zip(taken, plan.weights, strict=True)
    )


def _samples_taken(plan: Plan, seed: int, batches: int, dataset: str | None) -> int:
    """Return how many pictures the first `batches` micro-batches of a data set, or of all together, hold."""
    buckets = [plan.buckets[number] for number in _buckets(plan, dataset)]
    epoch, position = divmod(batches, sum(bucket.batches() for bucket in buckets))
    whole = epoch * sum(bucket.draws for bucket in buckets)
    if not position:
        return whole
    begun = _epoch_order(plan, seed, epoch, dataset).batches[:position]
    draws = np.array([bucket.draws for bucket in plan.buckets])
    sizes = np.array([bucket.batch_size for bucket in plan.buckets])
    return whole + int(np.minimum(sizes[begun[:, 0]], draws[begun[:, 0]] - begun[:, 1]).sum())


def epoch_at(plan: Plan, seed: int, index: int, dataset: str) -> int:
    """Return which epoch of a data set the micro-batch at `index`, or the next one of that data set, belongs to."""
    if not plan.weights:
        return index // batches_per_epoch(plan)
    names = [name for name, _ in plan.weights]
    if dataset not in names:
        return 0
    number = names.index(dataset)
    block, position = divmod(index, _PICKS)
    picks = _picks(plan, seed, block)
    taken = int(picks.before[number] + np.count_nonzero(picks.chosen[:position] == number))
    return taken // sum(plan.buckets[bucket].batches() for bucket in _buckets(plan, dataset))


def _buckets(plan: Plan, dataset: str | None) -> list[int]:
    return [number for number, bucket in enumerate(plan.buckets) if dataset in (None, bucket.dataset)]


def _pick(plan: Plan, seed: int, index: int) -> tuple[int, int]:
    """Return which data set the micro-batch at `index` is taken from, and how many were taken from it before."""
    block, position = divmod(index, _PICKS)
    picks = _picks(plan, seed, block)
    number = int(picks.chosen[position])
    return number, int(picks.before[number] + np.count_nonzero(picks.chosen[:position] == number))


def _picks(plan: Plan, seed: int, block: int) -> Picks:
    """Draw picks block by block from the first one, so that counts are right wherever a run starts."""
    shares = np.array([share for _, share in plan.weights])
    known = plan.picks.setdefault(seed, [])
    while len(known) <= block:
        before = np.zeros(len(shares), dtype=np.int64)
        if known:
            before = known[-1].before + np.bincount(known[-1].chosen, minlength=len(shares))
        random = generator(seed, "data set", len(known))
        known.append(Picks(random.choice(len(shares), size=_PICKS, p=shares), before))
    return known[block]


def _epoch_order(plan: Plan, seed: int, epoch: int, dataset: str | None) -> EpochOrder:
    key = (seed, epoch, dataset or "")
    order = plan.orders.get(key)
    if order is None:
        order = plan.orders[key] = _shuffle(plan, seed, epoch, dataset)
        mine = [other for other in plan.orders if (other[0], other[2]) == (seed, dataset or "")]
        for old in mine[:-_EPOCHS_REMEMBERED]:
            plan.orders.pop(old, None)
    return order


def _shuffle(plan: Plan, seed: int, epoch: int, dataset: str | None) -> EpochOrder:
    draws: dict[int, NDArray[np.int64]] = {}
    batches = []
    for number in _buckets(plan, dataset):
        bucket = plan.buckets[number]
        draws[number] = generator(seed, "order", epoch, bucket.id).permutation(bucket.draws)
        starts = np.arange(0, bucket.draws, bucket.batch_size)
        batches.append(np.stack([np.full_like(starts, number), starts], axis=1))
    return EpochOrder(draws, generator(seed, "batches", epoch, dataset or "").permutation(np.concatenate(batches)))
