from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tuner.caching.conditionings import ConditioningCache, collate, conditioning_key
from tuner.caching.filling import FillReport
from tuner.caching.store import ShardStore
from tuner.errors import CacheError, NonFiniteError, PluginError
from tuner.types import Conditioning, Role


class ByteEncoder:
    """A tiny real encoder: an embedding of the prompt's bytes, padded to eight tokens."""

    def __init__(self) -> None:
        weight = torch.linspace(-1, 1, 257 * 4).reshape(257, 4).to(torch.bfloat16)
        self.embedding = nn.Embedding.from_pretrained(weight)
        self.calls: list[tuple[tuple[str, ...], Role]] = []

    def __call__(self, prompts: Sequence[str], role: Role) -> Conditioning:
        self.calls.append((tuple(prompts), role))
        tokens_BL = torch.full((len(prompts), 8), 256)
        for row, prompt in enumerate(prompts):
            raw = list(prompt.encode()[:8])
            tokens_BL[row, : len(raw)] = torch.tensor(raw, dtype=torch.long)
        sign = -1 if role == "negative" else 1
        return {"embeds": sign * self.embedding(tokens_BL), "mask": tokens_BL != 256, "tokens": tokens_BL}


def open_cache(folder: Path, options_json: str = "{}") -> ConditioningCache:
    return ConditioningCache(ShardStore(folder), "sana", "weights", torch.bfloat16, options_json)


def fill(cache: ConditioningCache, requests: list[tuple[str, Role]], encoder: ByteEncoder) -> FillReport:
    return cache.fill(requests, open_encoder=lambda: encoder, batch_size=2, write_batch_size=3)


def refuse_to_open() -> ByteEncoder:
    raise AssertionError("the encoders were opened though nothing is missing")


def test_rows_collate_to_what_the_encoder_gave(tmp_path: Path) -> None:
    prompts = ["a cat", "a dog", "", "a cat", "ein Bär"]
    requests: list[tuple[str, Role]] = [(prompt, "caption") for prompt in prompts]
    cache, encoder = open_cache(tmp_path), ByteEncoder()
    assert fill(cache, requests, encoder) == FillReport(encoded=4, reused=1)
    assert encoder.calls == [(("a cat", "a dog"), "caption"), (("", "ein Bär"), "caption")]
    collated = collate([open_cache(tmp_path).read(prompt, "caption") for prompt in prompts])
    expected = ByteEncoder()(prompts, "caption")
    assert collated.keys() == expected.keys()
    for name, tensor in expected.items():
        assert collated[name].dtype is tensor.dtype, name
        assert torch.equal(collated[name], tensor), name


def test_roles_are_kept_apart(tmp_path: Path) -> None:
    cache, encoder = open_cache(tmp_path), ByteEncoder()
    fill(cache, [("a cat", "caption"), ("blurry", "negative"), ("a cat", "negative")], encoder)
    assert encoder.calls == [(("a cat",), "caption"), (("blurry", "a cat"), "negative")]
    assert torch.equal(cache.read("a cat", "negative")["embeds"], -cache.read("a cat", "caption")["embeds"])
    with pytest.raises(CacheError, match="holds no entry"):
        cache.read("blurry", "caption")


def test_the_encoder_stays_closed_when_all_is_cached(tmp_path: Path) -> None:
    requests: list[tuple[str, Role]] = [("a cat", "caption"), ("", "unconditional")]
    fill(open_cache(tmp_path), requests, ByteEncoder())
    report = open_cache(tmp_path).fill(requests, open_encoder=refuse_to_open, batch_size=2, write_batch_size=3)
    assert report == FillReport(encoded=0, reused=2)


def test_only_the_missing_is_encoded_and_progress_told(tmp_path: Path) -> None:
    fill(open_cache(tmp_path), [("a", "caption"), ("b", "caption")], ByteEncoder())
    cache, encoder, seen = open_cache(tmp_path), ByteEncoder(), []
    report = cache.fill(
        [(letter, "caption") for letter in "abcde"],
        open_encoder=lambda: encoder,
        batch_size=2,
        write_batch_size=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert report == FillReport(encoded=3, reused=2)
    assert encoder.calls == [(("c", "d"), "caption"), (("e",), "caption")]
    assert seen == [(2, 3), (3, 3)]


def test_some_are_encoded_each_by_itself_in_the_same_fill(tmp_path: Path) -> None:
    encoder, told = ByteEncoder(), []
    report = open_cache(tmp_path).fill(
        [("a", "caption"), ("b", "caption"), ("c", "caption"), ("d", "caption")],
        open_encoder=lambda: encoder,
        batch_size=3,
        write_batch_size=3,
        alone={("c", "caption"), ("e", "caption")},
        progress=lambda done, total: told.append((done, total)),
    )
    assert encoder.calls == [(("c",), "caption"), (("a", "b", "d"), "caption")]
    assert told == [(1, 4), (4, 4)]
    assert report == FillReport(encoded=4, reused=0)


def test_every_ingredient_changes_the_key() -> None:
    ingredients = {
        "prompt": ("a cat", "a cat "),
        "role": ("caption", "negative"),
        "family_name": ("sana", "auraflow"),
        "encoder_fingerprint": ("x", "y"),
        "dtype": (torch.bfloat16, torch.float32),
        "options_json": ("{}", '{"complex_human_instruction": false}'),
    }
    plain = {name: pair[0] for name, pair in ingredients.items()}
    variants = [plain, *({**plain, name: pair[1]} for name, pair in ingredients.items())]
    assert len({conditioning_key(**variant) for variant in variants}) == 7
    assert conditioning_key(**plain) == "314f1aa3d4f497af05df006b91ba2a7e"


def test_changed_options_are_encoded_anew(tmp_path: Path) -> None:
    fill(open_cache(tmp_path), [("a cat", "caption")], ByteEncoder())
    assert fill(open_cache(tmp_path, '{"x": 1}'), [("a cat", "caption")], ByteEncoder()).encoded == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_conditioning_names_its_prompt(tmp_path: Path, value: float) -> None:
    class Overflowing(ByteEncoder):
        def __call__(self, prompts: Sequence[str], role: Role) -> Conditioning:
            encoded: dict[str, Tensor] = dict(super().__call__(prompts, role))
            for row, prompt in enumerate(prompts):
                if prompt == "bad":
                    encoded["embeds"][row, 3, 1] = value
            return encoded

    cache = open_cache(tmp_path)
    with pytest.raises(NonFiniteError, match="for the caption prompts 'bad'\n"):
        fill(cache, [("good", "caption"), ("fine", "caption"), ("okay", "caption"), ("bad", "caption")], Overflowing())
    assert fill(open_cache(tmp_path), [("good", "caption"), ("fine", "caption")], ByteEncoder()).reused == 2


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path) -> None:
    class Doubling(ByteEncoder):
        def __call__(self, prompts: Sequence[str], role: Role) -> Conditioning:
            return super().__call__([*prompts, *prompts], role)

    with pytest.raises(PluginError, match=r"embeds of shape \(4, 8, 4\) for 2 prompts"):
        fill(open_cache(tmp_path), [("a", "caption"), ("b", "caption")], Doubling())
