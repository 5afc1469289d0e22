"""Latents that are encoded when training first needs them, and kept or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor

from tuner.caching.latents import LatentCache, encode_pixels
from tuner.caching.readers import LoadPixels
from tuner.caching.store import DamagedEntry
from tuner.data.sample import Sample
from tuner.errors import DatasetError
from tuner.types import LatentCodec


class OnDemandLatents:
    """Reads latents from a cache and encodes those that it lacks. For one thread at a time.

    Args:
        cache: Where latents lie.
        load_pixels: Reads a picture.
        open_codec: Loads the codec, or gives the one that is loaded; called only if something is missing.
        write_batch_size: Latents written together; None to write nothing and to read nothing but what is encoded here.
    """

    def __init__(
        self,
        cache: LatentCache,
        load_pixels: LoadPixels,
        open_codec: Callable[[], LatentCodec],
        write_batch_size: int | None,
    ) -> None:
        self._cache = cache
        self._load_pixels = load_pixels
        self._open_codec = open_codec
        self._stack = ExitStack()
        self._writer = self._stack.enter_context(cache.store.writer(write_batch_size)) if write_batch_size else None
        self._pending: dict[str, Tensor] = {}  # encoded, and not on the disk yet

    def read(self, sample: Sample) -> Tensor:
        """Return a sample's latent, without batch dimension, on the CPU.

        Raises:
            DatasetError: The picture cannot be read.
            NonFiniteError: The codec gives NaN or infinite values for it.
            CacheError: The cache cannot be written.
        """
        if self._writer is None:
            return self._encode(sample)
        key = self._cache.key_of(sample)
        if (latent := self._pending.get(key)) is not None:
            return latent
        try:
            if key in self._cache.store:
                return self._cache.read(sample)
        except DamagedEntry:
            pass  # it counts as missing from now on
        latent = self._encode(sample)
        self._writer.add(key, {"latent": latent}, note=sample.key)
        self._pending = {name: kept for name, kept in self._pending.items() if name not in self._cache.store}
        self._pending[key] = latent
        return latent

    def close(self) -> None:
        """Write what waits to be written.

        Raises:
            CacheError: The cache cannot be written.
        """
        self._stack.close()

    def _encode(self, sample: Sample) -> Tensor:
        try:
            pixels = self._load_pixels(sample.file, sample.geometry)
        except (OSError, DatasetError) as error:
            raise DatasetError(
                f"{sample.key} {error}\n    -> repair, replace or remove {sample.file}; without vae_cache_ondemand and "
                "vae_cache_disable every picture is read before training"
            ) from error
        return encode_pixels(self._open_codec(), pixels.unsqueeze(0), [sample])[0]
