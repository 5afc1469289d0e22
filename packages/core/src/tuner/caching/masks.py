"""The cache of masks, each averaged over latent cells once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tuner.caching.filling import FillReport, map_ahead
from tuner.caching.fingerprints import hash_fields
from tuner.caching.store import ShardStore
from tuner.data.sample import Geometry, Sample
from tuner.errors import DatasetError

_MASK = "mask"
_READERS = 4

LoadMask = Callable[[Path, Geometry, tuple[int, int]], Tensor]
"""(file, geometry, (height, width) of the latent) -> float32 mask of shape (1, height, width) in [0, 1]."""


@dataclass(frozen=True)
class MaskCache:
    """Masks by content, geometry and latent size.

    Attributes:
        store: Where they lie.
        content_hash: File -> hash of its bytes. Raises OSError or DatasetError.
        stride: Pixels per latent cell, along each side.
    """

    store: ShardStore
    content_hash: Callable[[Path], str]
    stride: int

    def key_of(self, sample: Sample) -> str:
        """Return the key of a sample's mask.

        Raises:
            OSError, DatasetError: The file cannot be read.
        """
        assert sample.mask is not None
        shape = json.dumps([sample.geometry.resize, sample.geometry.crop, sample.geometry.downsample, self.stride])
        return hash_fields("mask 1", self.content_hash(sample.mask), shape)

    def read(self, sample: Sample) -> Tensor:
        """Return the mask of a sample, float32 of shape (1, height, width) of its latent.

        Raises:
            CacheError: It is missing, or damaged.
        """
        return self.store.read(self.key_of(sample))[_MASK]

    def fill(self, samples: Iterable[Sample], *, load_mask: LoadMask, write_batch_size: int) -> FillReport:
        """Read the masks that are missing; samples without a mask are passed over.

        Raises:
            CacheError: The cache cannot be written.
        """
        masked = [sample for sample in samples if sample.mask is not None]
        unreadable: dict[str, str] = {}
        encoded = 0

        def load(sample: Sample) -> tuple[str, Tensor | None]:
            assert sample.mask is not None
            key = self.key_of(sample)
            width, height = sample.geometry.size
            cells = height // self.stride, width // self.stride
            return key, None if key in self.store else load_mask(sample.mask, sample.geometry, cells)

        with self.store.writer(write_batch_size) as writer:
            for sample, future in map_ahead(load, masked, _READERS, ahead=4 * _READERS):
                try:
                    key, mask = future.result()
                except (OSError, DatasetError) as error:
                    unreadable[sample.key] = f"has a mask that {error}"
                    continue
                if mask is not None:
                    writer.add(key, {_MASK: mask}, note=sample.key)
                    encoded += 1
        return FillReport(encoded, len(masked) - encoded - len(unreadable), unreadable)
