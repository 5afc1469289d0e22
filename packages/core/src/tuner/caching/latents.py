"""The cache of latents: each picture, cropped as the plan says, is encoded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tuner.caching.filling import FillReport, Progress, is_finite, map_ahead
from tuner.caching.fingerprints import hash_fields
from tuner.caching.readers import READERS, LoadPixels, OpenReader, picture_reader
from tuner.caching.store import ShardStore
from tuner.data.sample import Geometry, Sample
from tuner.errors import DatasetError, NonFiniteError
from tuner.types import LatentCodec

_LATENT = "latent"
_HASHED_TOGETHER = 64  # by one thread; most are known, and handing over each of those would cost more than it saves


def latent_key(
    content_hash: str,
    geometry: Geometry,
    family_name: str,
    vae_fingerprint: str,
    dtype: torch.dtype,
    codec_version: str,
) -> str:
    """Return the key of a latent: a hash of all that its numbers depend on.

    The number of pictures encoded together is left out: it may change the last bits, never the meaning.
    """
    shape = json.dumps([geometry.resize, geometry.crop, geometry.downsample])
    return hash_fields("latent 1", content_hash, shape, family_name, vae_fingerprint, str(dtype), codec_version)


@dataclass
class LatentCache:
    """Latents by picture and geometry, for one codec.

    Attributes:
        store: Where they lie.
        content_hash: File -> hash of its bytes; called once per file, from several threads.
            Raises OSError or DatasetError.
        family_name: Canonical name of the family.
        vae_fingerprint: Fingerprint of the codec's weights.
        dtype: dtype that the codec is loaded in.
        codec_version: `FamilyFacts.codec_version`; changes whenever the codec's numbers do.
    """

    store: ShardStore
    content_hash: Callable[[str], str]
    family_name: str
    vae_fingerprint: str
    dtype: torch.dtype
    codec_version: str
    _hashes: dict[str, str] = field(default_factory=dict, repr=False)

    def key_of(self, sample: Sample) -> str:
        """Return the key of a sample's latent. A file that changes during the run keeps its first one.

        Raises:
            OSError, DatasetError: The file cannot be read.
        """
        content = self._hashes.get(sample.file)
        if content is None:
            content = self._hashes[sample.file] = self.content_hash(sample.file)
        return latent_key(
            content, sample.geometry, self.family_name, self.vae_fingerprint, self.dtype, self.codec_version
        )

    def read(self, sample: Sample) -> Tensor:
        """Return a sample's latent, without batch dimension, on the CPU, in the dtype the codec gave it.

        Raises:
            CacheError: It is missing, or damaged (`DamagedEntry`).
            OSError, DatasetError: The picture cannot be read, and its content is not known yet.
        """
        return self.store.read(self.key_of(sample))[_LATENT]

    def fill(
        self,
        samples: Iterable[Sample],
        *,
        open_codec: Callable[[], LatentCodec],
        batch_size: int,
        write_batch_size: int,
        progress: Progress | None = None,
        open_reader: OpenReader = picture_reader,
    ) -> FillReport:
        """Encode what is missing. Pictures are read ahead of the codec, several at once.

        Args:
            samples: All samples; equal pictures with equal geometry are encoded once.
            open_codec: Loads the codec; called only if something is missing.
            batch_size: Pictures encoded together; all of one size.
            write_batch_size: Latents written together; a killed process loses at most twice as many.
            progress: Called after every batch.
            open_reader: Opens what reads pictures.

        Raises:
            CacheError: The cache cannot be written, or a process that reads pictures ended before its time.
            NonFiniteError: Latents are NaN or infinite; names the samples.
        """
        asked = list(samples)
        missing, unreadable = self._find_missing(asked)
        encoded = 0
        if missing:
            with (
                self.store.writer(write_batch_size) as writer,
                open_reader(len(missing)) as load_pixels,
                closing(_pixel_batches(missing, load_pixels, batch_size, unreadable)) as batches,
            ):
                codec = open_codec()
                for keys, pixels in batches:
                    latents = encode_pixels(codec, pixels, [missing[key][0] for key in keys])
                    for key, latent in zip(keys, latents, strict=True):
                        writer.add(key, {_LATENT: latent}, note=missing[key][0].key)
                    encoded += len(keys)
                    if progress is not None:
                        progress(encoded, len(missing))
        return FillReport(encoded, len(asked) - encoded - len(unreadable), unreadable)

    def _find_missing(self, samples: Sequence[Sample]) -> tuple[dict[str, list[Sample]], dict[str, str]]:
        """Return the samples that are missing, by latent key, and why others are unreadable, by sample key."""
        reasons: dict[str, str] = {}
        paths = list(dict.fromkeys(sample.file for sample in samples if sample.file not in self._hashes))
        groups = [paths[start : start + _HASHED_TOGETHER] for start in range(0, len(paths), _HASHED_TOGETHER)]
        with closing(map_ahead(self._hash, groups, READERS, ahead=2 * READERS)) as hashed:
            for _, future in hashed:
                reasons.update(future.result())
        missing: dict[str, list[Sample]] = {}
        for sample in samples:
            if sample.file not in reasons and (key := self.key_of(sample)) not in self.store:
                missing.setdefault(key, []).append(sample)
        return missing, {sample.key: reasons[sample.file] for sample in samples if sample.file in reasons}

    def _hash(self, paths: Sequence[str]) -> dict[str, str]:
        """Take in the hashes of files. Returns why others cannot be read."""
        reasons = {}
        for path in paths:
            try:
                self._hashes[path] = self.content_hash(path)
            except (OSError, DatasetError) as error:
                reasons[path] = _reason(error)
        return reasons


def _pixel_batches(
    missing: dict[str, list[Sample]], load_pixels: LoadPixels, batch_size: int, unreadable: dict[str, str]
) -> Generator[tuple[list[str], Tensor]]:
    """Yield (keys, pixels_BCHW) of readable pictures, size by size; note the unreadable ones."""

    def load(key: str) -> Tensor:
        first = missing[key][0]
        return load_pixels(first.file, first.geometry)

    by_size: dict[tuple[int, int], list[str]] = {}
    for key, samples in missing.items():
        by_size.setdefault(samples[0].geometry.size, []).append(key)
    order = [key for keys in by_size.values() for key in keys]
    keys: list[str] = []
    pixels: list[Tensor] = []
    with closing(map_ahead(load, order, READERS, ahead=READERS + 2 * batch_size)) as loaded:
        for key, future in loaded:
            try:
                picture = future.result()
            except (OSError, DatasetError) as error:
                unreadable.update((sample.key, _reason(error)) for sample in missing[key])
                continue
            if pixels and (len(pixels) == batch_size or picture.shape != pixels[0].shape):
                yield keys, torch.stack(pixels)
                keys, pixels = [], []
            keys.append(key)
            pixels.append(picture)
    if pixels:
        yield keys, torch.stack(pixels)


@torch.inference_mode()
def encode_pixels(codec: LatentCodec, pixels: Tensor, samples: Sequence[Sample]) -> Tensor:
    """Encode pixels of shape (B, 3, H, W) in [-1, 1], of as many samples; the latents are on the CPU.

    Raises:
        NonFiniteError: Latents are NaN or infinite; names the samples.
    """
    device = next(codec.module.parameters()).device
    latents = codec.encode(pixels.to(device)).to("cpu")
    broken = [sample.key for sample, latent in zip(samples, latents, strict=True) if not is_finite(latent)]
    if broken:
        raise NonFiniteError(
            f"the codec gives NaN or infinite latents for {', '.join(broken)}\n"
            "    -> run the codec in float32, or remove these pictures from the data set"
        )
    return latents


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
