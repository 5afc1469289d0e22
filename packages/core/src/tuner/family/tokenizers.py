"""Tokenizers for twins, built in memory: small vocabularies in which every text can be encoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tuner.family.twins import SPACE, word_pieces


def llama_tokenizer(words: Iterable[str] = (), *, padding_side: str = "right", max_length: int = 2048) -> Any:
    """Build a Llama tokenizer of the sentence-piece kind. Every text begins with bos and can be decoded again.

    Numbers 0 to 2 are unk, bos and eos; as in the published ones, none is for padding.

    Args:
        words: Words that become one token each where they follow a space; all else takes a token per character.
        padding_side: Where padding goes once a padding token is set: left or right.
        max_length: Longest text in tokens that it declares.
    """
    from transformers import LlamaTokenizer

    vocabulary, merges = word_pieces(("<unk>", "<s>", "</s>"), words)
    return LlamaTokenizer(
        vocab=vocabulary, merges=merges, add_bos_token=True, padding_side=padding_side, model_max_length=max_length
    )


def t5_tokenizer(words: Iterable[str] = (), *, max_length: int = 512) -> Any:
    """Build a T5 tokenizer, which ends every text with eos. What is not printable ASCII becomes unk.

    Numbers 0 to 2 are pad, eos and unk.

    Args:
        words: Words that become one token each; all else takes a token per character.
        max_length: Longest text in tokens that it declares.
    """
    from transformers import T5Tokenizer

    characters = [SPACE, *(chr(code) for code in range(33, 127))]
    whole = [SPACE + word for word in sorted(set(words))]
    # A piece counts by its score, so a whole word must be likelier than all of its characters together.
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((c, -10.0) for c in characters),
        *((w, -1.0) for w in whole),
    ]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)


def clip_tokenizer(words: Iterable[str] = (), *, max_length: int = 77) -> Any:
    """Build a CLIP tokenizer: lower case, a start and an end mark around every text, padded with the end mark.

    Args:
        words: Words that become one token each; all else takes a token per byte.
        max_length: Longest text in tokens that it declares.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    end = "</w>"
    alphabet = sorted(ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in sorted({word.lower() for word in words if word.isascii() and word.isalpha() and len(word) > 1}):
        parts = [*word[:-1], word[-1] + end]
        merges.update(dict.fromkeys(("".join(parts[:at]), parts[at]) for at in range(1, len(parts))))
    tokens = [*alphabet, *(byte + end for byte in alphabet), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=max_length)
