"""What comes out of the caches and into batches is what was encoded, whatever stands beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tuner.caching.conditionings import ConditioningCache, collate
from tuner.caching.store import ShardStore
from tuner.data.plan import Bucket, Plan
from tuner.data.sample import Geometry, Sample
from tuner.flow import SigmaSchedule
from tuner.testing.family import LONG_PROMPT, PROMPTS, SHORT_PROMPT, FamilyUnderTest, relative_error, rows
from tuner.training.batches import BatchSource, DrawnBatch
from tuner.types import Batch, Conditioning, Role

_REQUESTS: list[tuple[str, Role]] = [*((prompt, "caption") for prompt in PROMPTS), ("", "unconditional")]


@pytest.fixture(scope="module")
def cache(family: FamilyUnderTest, tmp_path_factory: pytest.TempPathFactory) -> ConditioningCache:
    """The conditionings of all prompts, encoded one by one, written to disk and found there again."""
    folder = tmp_path_factory.mktemp("conditionings")
    filled = ConditioningCache(ShardStore(folder), family.facts.name, "twin", torch.float32, "{}")
    filled.fill(_REQUESTS, open_encoder=lambda: family.encode, batch_size=1, write_batch_size=2)
    return replace(filled, store=ShardStore(folder))


@torch.no_grad()
def test_a_cached_conditioning_is_the_encoded_one(family: FamilyUnderTest, cache: ConditioningCache) -> None:
    """Names, dtypes and values survive the cache, so that the velocity is the same bit for bit."""
    batch = family.batch((0.5,))
    for prompt, role in _REQUESTS:
        encoded, cached = family.encode([prompt], role), _stacked(family, cache, [(prompt, role)])
        assert _dtypes(cached) == _dtypes(encoded)
        expected = family.predict(replace(batch, conditioning=encoded)).velocity
        actual = family.predict(replace(batch, conditioning=cached)).velocity
        assert torch.equal(actual, expected), f"from the cache, the {role} {prompt!r} gives another velocity"


@torch.no_grad()
def test_filling_up_shorter_rows_changes_nothing(family: FamilyUnderTest, cache: ConditioningCache) -> None:
    """What `conditioning_padding` puts behind a short prompt that is stacked with a long one is never heard."""
    together = _stacked(family, cache, [(SHORT_PROMPT, "caption"), (LONG_PROMPT, "caption")])
    alone = _stacked(family, cache, [(SHORT_PROMPT, "caption")])
    batch = family.batch((0.5,))
    expected = family.predict(replace(batch, conditioning=alone)).velocity
    error = relative_error(family.predict(replace(batch, conditioning=rows(together, slice(1)))).velocity, expected)
    assert error <= 1e-6, f"filling up a shorter row changes its velocity by {error:.1e}"


@torch.no_grad()
def test_rows_of_different_prompts_stack(family: FamilyUnderTest, cache: ConditioningCache) -> None:
    """Long, short and empty prompts share a batch, and each has the velocity that it has alone."""
    batch = family.batch((0.5,) * len(_REQUESTS), [prompt for prompt, _ in _REQUESTS])
    together = family.predict(_with(batch, _stacked(family, cache, _REQUESTS))).velocity
    for index, request in enumerate(_REQUESTS):
        alone = family.predict(_with(batch, _stacked(family, cache, [request]), index)).velocity
        error = relative_error(together[index : index + 1], alone)
        assert error <= 1e-5, f"{request} has another velocity in a batch (off by {error:.1e})"


@torch.no_grad()
def test_the_empty_caption_can_replace_any(family: FamilyUnderTest, cache: ConditioningCache) -> None:
    """Caption dropout: the unconditional row stacks with captions as it is, and means something else."""
    unconditional, caption = cache.read("", "unconditional"), cache.read(LONG_PROMPT, "caption")
    assert _dtypes(unconditional) == _dtypes(caption)
    stacked = collate([unconditional, caption], family.facts.conditioning_padding)
    batch = family.batch((0.5,))
    empty, told = (
        family.predict(replace(batch, conditioning=rows(stacked, slice(row, row + 1)))).velocity for row in range(2)
    )
    change = relative_error(empty, told)
    assert change > 1e-5, f"without its caption a sample has the same velocity (a change of {change:.1e})"


def test_draws_do_not_depend_on_the_batch(family: FamilyUnderTest, cache: ConditioningCache) -> None:
    """A sample has the same latent, noise and sigma in a batch of two as in one of its own."""
    pair = _drawn(_source(family, cache, batch_size=2).step(3))
    single = _drawn(_source(family, cache, batch_size=1).step(3))
    assert pair.keys() == single.keys()
    assert len(pair) == 2
    for key, tensors in pair.items():
        assert all(torch.equal(one, other) for one, other in zip(tensors, single[key], strict=True))
    (_, noise, _), (_, other_noise, _) = pair.values()
    assert not torch.equal(noise, other_noise)


def _stacked(family: FamilyUnderTest, cache: ConditioningCache, requests: list[tuple[str, Role]]) -> Conditioning:
    return collate([cache.read(*request) for request in requests], family.facts.conditioning_padding)


def _dtypes(conditioning: Conditioning) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in conditioning.items()}


def _with(batch: Batch, conditioning: Conditioning, index: int | None = None) -> Batch:
    """Return the batch, or one sample of it, with another conditioning."""
    here = slice(None) if index is None else slice(index, index + 1)
    return Batch(batch.x[here], batch.sigma[here], batch.target[here], conditioning)


def _source(family: FamilyUnderTest, cache: ConditioningCache, batch_size: int) -> BatchSource:
    """Return the source of a run on two pictures, with two samples per step however they are cut into batches."""
    height, width = family.shapes[0]
    latents = family.latents(2, height, width)
    geometry = Geometry((width, height), (0, 0, width, height))
    samples = tuple(
        Sample(f"data/{index}.png", "data", f"{index}.png", (PROMPTS[index],), geometry) for index in range(2)
    )
    bucket = Bucket("data", (width, height), round(width / height, 2), samples, 0, batch_size)
    return BatchSource(
        plan=Plan((bucket,), (), (), batch_size),
        seed=1,
        accumulation=2 // batch_size,
        schedule=SigmaSchedule(),
        patch_size=family.facts.patch_size,
        caption_dropout=0.5,
        read_latent=lambda sample: latents[samples.index(sample)],
        read_conditioning=cache.read,
        conditioning_padding=family.facts.conditioning_padding,
    )


def _drawn(micro_batches: list[DrawnBatch]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return each sample's latent, noise and sigma."""
    return {
        key: (batch.latents[row], batch.noise[row], batch.sigma[row])
        for batch in micro_batches
        for row, key in enumerate(batch.keys)
    }
