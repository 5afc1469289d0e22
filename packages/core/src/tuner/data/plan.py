"""The data set plan: which picture is trained on at which size, and in which batches. A pure function of its inputs.

It can be printed before anything is computed. It knows no epoch: `tuner.data.order` puts its batches in order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuner.data.sample import Sample

if TYPE_CHECKING:
    from tuner.data.order import EpochOrder, Picks


@dataclass(frozen=True)
class Bucket:
    """Pictures of one data set that are trained on at one size.

    Attributes:
        dataset: Id of the data set.
        size: (width, height) in pixels.
        aspect: width / height, rounded to aspect_bucket_rounding decimals.
        samples: The pictures, sorted by key.
        repeats: Extra passes over each picture per epoch.
        batch_size: Samples in a micro-batch of its data set.
    """

    dataset: str
    size: tuple[int, int]
    aspect: float
    samples: tuple[Sample, ...]
    repeats: int
    batch_size: int

    @property
    def id(self) -> str:
        """Name of the bucket, unique in a plan."""
        return f"{self.dataset}/{self.size[0]}x{self.size[1]}"

    @property
    def draws(self) -> int:
        """How many samples the bucket gives in an epoch, repeats included."""
        return len(self.samples) * (self.repeats + 1)

    def batches(self) -> int:
        """How many batches the bucket gives in an epoch; the last may be short."""
        return -(-self.draws // self.batch_size)


@dataclass(frozen=True)
class Unused:
    """A picture that is not trained on.

    Attributes:
        dataset: Id of the data set.
        key: "dataset_id/relative/path.png".
        reason: Why; equal for all pictures with the same fault.
        remedy: What to do about it.
        asked: Whether a setting asked for it, such as minimum_image_size.
    """

    dataset: str
    key: str
    reason: str
    remedy: str
    asked: bool = False


@dataclass(frozen=True)
class DatasetTotals:
    """What became of the files of a data set.

    Attributes:
        dataset: Its id.
        found: Pictures in its folder.
        used: Pictures that are trained on.
        other_files: Suffix -> number of files that are no pictures.
    """

    dataset: str
    found: int
    used: int
    other_files: Mapping[str, int]

    def describe_others(self) -> str:
        """Return the other files as "12 .txt, 1 .json"."""
        return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self.other_files.items())


@dataclass(frozen=True)
class Plan:
    """The pictures of a run, sorted into buckets.

    Attributes:
        buckets: By data set in the order of the file, then by size.
        unused: What was left out and why.
        totals: One entry per data set.
        batch_size: Samples in a micro-batch of data sets that give no number of their own.
        accumulation: Micro-batches in an optimizer step, those of all processes together.
        processes: Processes that share them.
        weights: (data set, share of the micro-batches) where data sets are drawn from by weight; nothing where an
            epoch takes every batch exactly once.
    """

    buckets: tuple[Bucket, ...]
    unused: tuple[Unused, ...]
    totals: tuple[DatasetTotals, ...]
    batch_size: int
    accumulation: int = 1
    processes: int = 1
    weights: tuple[tuple[str, float], ...] = ()
    orders: dict[tuple[int, int, str], EpochOrder] = field(default_factory=dict, compare=False, repr=False)
    """(seed, epoch, data set or nothing) -> order, a memo of `tuner.data.order`."""
    picks: dict[int, list[Picks]] = field(default_factory=dict, compare=False, repr=False)
    """Seed -> picks of data sets from the first one on, a memo of `tuner.data.order`."""

    def fingerprint(self) -> str:
        """Return a hash of all that decides which batches a run sees (32 hexadecimal digits).

        Two plans of equal fingerprint give the same batches for the same seed. Folders and the content of files
        play no part, so a data set may be moved between stopping and resuming a run.
        """
        digest = hashlib.blake2b(digest_size=16)
        if self.weights:
            digest.update(_line(["weights", self.weights]))
        for bucket in self.buckets:
            digest.update(_line([bucket.id, bucket.repeats, bucket.batch_size]))
            for sample in bucket.samples:
                shape, masked = sample.geometry, ["masked"] if sample.mask else []
                values = [sample.key, sample.captions, shape.resize, shape.crop, shape.downsample, *masked]
                digest.update(_line(values))
        return digest.hexdigest()


def _line(values: list[Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
