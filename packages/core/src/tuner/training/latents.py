"""The latents of a run: filled before it, encoded on demand, or replaced from epoch to epoch, as each data set says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from tuner.caching.collecting import survey
from tuner.caching.ondemand import OnDemandLatents
from tuner.config.datasets import DatasetConfig
from tuner.data.geometry import geometry_in, redraws_crops
from tuner.data.images import load_pixels
from tuner.data.index import FileIndex
from tuner.data.plan import Plan
from tuner.data.sample import Sample
from tuner.errors import DatasetError
from tuner.tracking.bars import reporting
from tuner.training.caches import latent_caches
from tuner.training.session import Session, release_memory
from tuner.types import LatentCodec

logger = logging.getLogger(__name__)


class LatentSource:
    """The latents of all data sets.

    Args:
        session: The run's surroundings.
        datasets: The data sets, their pictures at hand.
        index: Memo of the files' hashes.
    """

    def __init__(self, session: Session, datasets: tuple[DatasetConfig, ...], index: FileIndex) -> None:
        self._session = session
        self._datasets = {dataset.id: dataset for dataset in datasets}
        self._caches = latent_caches(session, datasets, index)
        self._codec: LatentCodec | None = None
        self._opening = threading.Lock()
        self._epochs: dict[str, int] = {}
        self._samples: dict[str, list[Sample]] = {}
        self._on_demand = {
            dataset.id: OnDemandLatents(
                self._caches[dataset.id],
                load_pixels,
                self._open_codec,
                None if dataset.vae_cache_disable else session.config.caching.write_batch_size,
            )
            for dataset in datasets
            if dataset.vae_cache_ondemand or dataset.vae_cache_disable
        }

    @property
    def redraws(self) -> bool:
        """Whether a data set is cropped anew in every epoch."""
        return any(map(redraws_crops, self._datasets.values()))

    def use(self, *plans: Plan) -> None:
        """Say which samples there are."""
        self._samples = {name: [] for name in self._datasets}
        for plan in plans:
            for bucket in plan.buckets:
                self._samples[bucket.dataset] += bucket.samples

    def key_of(self, sample: Sample) -> str:
        """Return the key of a sample's latent, a hash of all that it depends on."""
        return self._caches[sample.dataset].key_of(sample)

    def fill(self, epochs: Mapping[str, int]) -> dict[str, str]:
        """Encode what is missing, but for data sets that are encoded on demand; the codec leaves memory again.

        Args:
            epochs: Data set -> the epoch whose crops are wanted; 0 for those that it does not name.

        Returns:
            Sample key -> why its picture cannot be read.

        Raises:
            CacheError: A cache cannot be written.
            NonFiniteError: The codec gave NaN or infinite values.
        """
        unreadable: dict[str, str] = {}
        for name in self._datasets:
            self._epochs[name] = epochs.get(name, 0)
            if name in self._on_demand:
                logger.info("latents of %s: encoded when training needs them", name)
            else:
                unreadable.update(self._fill(name))
        self._release()
        return unreadable

    def read(self, sample: Sample) -> Tensor:
        """Return the latent of a sample, without batch dimension.

        Raises:
            TunerError: It can be neither read nor made.
        """
        on_demand = self._on_demand.get(sample.dataset)
        return on_demand.read(sample) if on_demand else self._caches[sample.dataset].read(sample)

    def in_epoch(self, sample: Sample, epoch: int) -> Sample:
        """Return a sample as it is cropped in an epoch, its latent at hand.

        Where an epoch begins, the latents of the one before are dropped and its own are encoded.

        Raises:
            TunerError: A picture or a cache fails.
        """
        if not redraws_crops(self._datasets[sample.dataset]):
            return sample
        if self._epochs[sample.dataset] != epoch:
            self._turn(sample.dataset, epoch)
        return self._cropped(sample, epoch)

    def samples_in(self, dataset: str, epoch: int) -> list[Sample]:
        """Return the samples of a data set as they are cropped in an epoch."""
        return [self._cropped(sample, epoch) for sample in self._samples[dataset]]

    def rest(self) -> None:
        """Release the codec, unless pictures that are trained on need it."""
        trained = any(self._datasets[name].dataset_type == "image" for name in self._on_demand)
        if self._codec is not None and not trained:
            self._release()

    def close(self) -> None:
        """Write what waits to be written, and release the codec."""
        for on_demand in self._on_demand.values():
            on_demand.close()
        self._release()

    def _turn(self, name: str, epoch: int) -> None:
        cache, before = self._caches[name], self._keys(name, self._epochs[name])
        self._epochs[name] = epoch
        evaluated = (other for other, dataset in self._datasets.items() if dataset.dataset_type == "eval")
        if gone := before.difference(self._keys(name, epoch), *(self._keys(other, 0) for other in evaluated)):
            cache.store.discard(gone)
            cache.store.rewrite(survey(cache.store, cache.store.keys()).partly)
        if name in self._on_demand:
            return
        unreadable = self._fill(name)
        self._release()
        for key, reason in unreadable.items():
            raise DatasetError(f"{key}: {reason}\n    -> it could be read when the run began; put it back")

    def _keys(self, name: str, epoch: int) -> set[str]:
        if self._datasets[name].vae_cache_disable:
            return set()
        return {self._caches[name].key_of(sample) for sample in self.samples_in(name, epoch)}

    def _cropped(self, sample: Sample, epoch: int) -> Sample:
        dataset = self._datasets[sample.dataset]
        return replace(sample, geometry=geometry_in(sample, dataset, epoch, self._session.seed))

    def _fill(self, name: str) -> Mapping[str, str]:
        caching = self._session.config.caching
        with reporting(f"latents of {name}", "picture") as progress:
            report = self._caches[name].fill(
                self.samples_in(name, self._epochs[name]),
                open_codec=self._open_codec,
                batch_size=caching.vae_batch_size,
                write_batch_size=caching.write_batch_size,
                progress=progress,
            )
        logger.info("latents of %s: %d encoded, %d found in the cache", name, report.encoded, report.reused)
        return report.unreadable

    def _open_codec(self) -> LatentCodec:
        with self._opening:  # the thread that makes batches and an evaluation beside it may both need it
            codec = self._session.load("codec").codec if self._codec is None else self._codec
            assert codec is not None  # asked for, so the contract promises it
            self._codec = codec
        return codec

    def _release(self) -> None:
        self._codec = None
        release_memory()
