"""Captions and prompts that are longer than a family takes, counted by its tokenizers where they are at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tuner.data.doctor.finding import Bar, Finding, no_bar
from tuner.data.index import FileIndex
from tuner.data.plan import Plan
from tuner.data.report import counted
from tuner.family.loading import ModelFolderError, open_tokenizer
from tuner.types import FamilyFacts, PromptLimit

_BATCH = 4096  # texts that are turned into tokens together


def prompt_limits(facts: FamilyFacts, options: BaseModel, folders: Iterable[str]) -> tuple[PromptLimit, ...]:
    """Return how many tokens of a prompt a family takes.

    Args:
        facts: The family's facts.
        options: The family's own settings.
        folders: Sub-folders of its tokenizers, which all have the same limit unless the facts say otherwise.
    """
    if facts.prompt_limits:
        return facts.prompt_limits(options)
    return tuple(PromptLimit(name, facts.token_limit) for name in folders) if facts.token_limit else ()


def count_tokens(tokenizer: Any, limit: PromptLimit, prompts: Sequence[str]) -> list[int]:
    """Return how many tokens each prompt has, as `limit` counts them."""
    text = limit.text or str
    numbers = _lengths(tokenizer, [text(prompt) for prompt in prompts])
    around = _lengths(tokenizer, [text("")])[0] if limit.counts == "prompt" else 0
    return [number - around for number in numbers]


def _lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    encoded = tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, verbose=False)
    return [len(ids) for ids in encoded.input_ids]


def long_captions(
    plan: Plan,
    facts: FamilyFacts,
    options: BaseModel,
    folders: Mapping[str, Path],
    index: FileIndex,
    bar: Bar = no_bar,
) -> Iterator[Finding]:
    """Yield data sets with captions that are cut, or longer than the family advises.

    Args:
        plan: The plan.
        facts: The family's facts.
        options: The family's own settings.
        folders: Sub-folder -> local folder of each tokenizer that is at hand.
        index: Remembers numbers of tokens.
        bar: Shows progress where captions must be counted.
    """
    captions = dict.fromkeys(text for bucket in plan.buckets for sample in bucket.samples for text in sample.captions)
    over: dict[str, list[tuple[PromptLimit, int]]] = {}
    if not folders and facts.token_limit and not facts.prompt_limits:
        yield _not_counted(facts, f"captions are cut beyond {facts.token_limit} tokens, and no tokenizer is at hand")
    for limit in prompt_limits(facts, options, folders):
        if limit.tokenizer not in folders:
            yield _not_counted(facts, f"{_effect(limit)}, which is not at hand")
            continue
        try:
            numbers = _remembered(folders[limit.tokenizer], limit, list(captions), index, bar)
        except ModelFolderError as error:
            yield _not_counted(facts, f"{_effect(limit)}, which cannot be read ({str(error).splitlines()[0]})")
            continue
        for caption, number in zip(captions, numbers, strict=True):
            if number > limit.tokens:
                over.setdefault(caption, []).append((limit, number))
    if over:
        yield from _per_dataset(plan, facts, over)


def long_prompts(
    prompts: Mapping[str, str], facts: FamilyFacts, options: BaseModel, folders: Mapping[str, Path], index: FileIndex
) -> Iterator[Finding]:
    """Yield prompts of pictures that are cut, or longer than the family advises.

    Args:
        prompts: Setting or nickname -> prompt.
        facts: The family's facts.
        options: The family's own settings.
        folders: Sub-folder -> local folder of each tokenizer that is at hand; `long_captions` tells of the others.
        index: Remembers numbers of tokens.
    """
    over: dict[str, list[tuple[PromptLimit, int]]] = {}
    for limit in prompt_limits(facts, options, folders):
        with suppress(KeyError, ModelFolderError):
            numbers = _remembered(folders[limit.tokenizer], limit, list(prompts.values()), index, no_bar)
            for name, number in zip(prompts, numbers, strict=True):
                if number > limit.tokens:
                    over.setdefault(name, []).append((limit, number))
    if over:
        long = [_LongText(name, *max(found, key=_excess)) for name, found in over.items()]
        yield _finding("long prompts", "pictures", "prompt", len(prompts), long, facts)


def _effect(limit: PromptLimit) -> str:
    verb = "are cut" if limit.cut else "are said to lose their end"
    return f"captions {verb} beyond {limit.tokens} tokens of {limit.tokenizer}"


def _not_counted(facts: FamilyFacts, why: str) -> Finding:
    remedy = "download the base model, as caching and training do, and check again"
    return Finding("note", "long captions", facts.title, f"{why}: none was counted", remedy)


def _remembered(folder: Path, limit: PromptLimit, prompts: Sequence[str], index: FileIndex, bar: Bar) -> list[int]:
    """Count tokens, asking the tokenizer only about texts that it was not asked about before.

    Raises:
        ModelFolderError: The tokenizer cannot be read.
    """
    text = limit.text or str
    texts = [text(prompt) for prompt in (*prompts, "")]
    keys = [hashlib.blake2b(one.encode(errors="surrogatepass"), digest_size=16).digest() for one in texts]
    fingerprint = _fingerprint(folder, index)
    known = index.token_counts(fingerprint)
    new = {key: one for key, one in zip(keys, texts, strict=True) if key not in known}
    if new:
        known.update(_count_new(folder, new, bar))
        index.store_token_counts(fingerprint, {key: known[key] for key in new})
    around = known[keys[-1]] if limit.counts == "prompt" else 0
    return [known[key] - around for key in keys[:-1]]


def _count_new(folder: Path, texts: Mapping[bytes, str], bar: Bar) -> Iterator[tuple[bytes, int]]:
    tokenizer = open_tokenizer(folder)
    keys = list(texts)
    with bar(f"tokens of {folder.name}", "caption") as report:
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            yield from zip(part, _lengths(tokenizer, [texts[key] for key in part]), strict=True)
            report(start + len(part), len(keys))


def _fingerprint(folder: Path, index: FileIndex) -> str:
    """Return a hash of the files of a tokenizer."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    content = " ".join(f"{path.name} {index.content_hash(path)}" for path in files)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class _LongText:
    """A text that is too long: its picture or name, the limit that it is beyond most, and its tokens."""

    key: str
    limit: PromptLimit
    tokens: int


def _per_dataset(
    plan: Plan, facts: FamilyFacts, over: Mapping[str, Sequence[tuple[PromptLimit, int]]]
) -> Iterator[Finding]:
    for total in plan.totals:
        samples = [sample for bucket in plan.buckets if bucket.dataset == total.dataset for sample in bucket.samples]
        captions = [(sample.key, text) for sample in samples for text in sample.captions]
        long = [_LongText(key, *max(over[text], key=_excess)) for key, text in captions if text in over]
        if not long:
            continue
        yield _finding("long captions", total.dataset, "caption", len(captions), long, facts)


def _finding(kind: str, where: str, text: str, total: int, long: Sequence[_LongText], facts: FamilyFacts) -> Finding:
    cut = any(item.limit.cut for item in long)
    limits = ", ".join(dict.fromkeys(f"{item.limit.tokens} tokens of {item.limit.tokenizer}" for item in long))
    longest = max(item.tokens for item in long)
    effect = "lose their end" if cut else f"are whole, but {facts.title} is said to follow no more"
    return Finding(
        "warning",
        kind,
        where,
        f"{len(long)} of {counted(total, text)} have more than {limits} and {effect}; the longest has {longest}",
        "shorten them, or say what matters most first",
        tuple(f"{item.key}: {item.tokens} tokens" for item in long),
    )


def _excess(item: tuple[PromptLimit, int]) -> int:
    limit, tokens = item
    return tokens - limit.tokens
