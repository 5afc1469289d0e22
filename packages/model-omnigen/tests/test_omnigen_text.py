from __future__ import annotations

import logging

import torch
from transformers import LlamaTokenizer

from tuner.data.doctor.tokens import count_tokens
from tuner.types import NoOptions
from tuner_omnigen import plugin
from tuner_omnigen.facts import PADDING

PROMPTS = ["A Photo of a Cat", "x", "café ☕ 🐈, a street at dusk"]


def test_token_ids_are_the_pipelines(omnigen, omnigen_twin, published_processor):
    processor = published_processor(LlamaTokenizer.from_pretrained(omnigen_twin / "tokenizer"))
    ids = plugin.encode_prompt(omnigen, PROMPTS, "caption")["input_ids"]
    rows = [processor.process_multi_modal_prompt(prompt, None)["input_ids"] for prompt in PROMPTS]
    assert ids.shape == (3, max(map(len, rows)))
    for row, expected in zip(ids, rows, strict=True):
        assert row[: len(expected)].tolist() == expected
        assert set(row[len(expected) :].tolist()) <= {PADDING}
    assert plugin.encode_prompt(omnigen, PROMPTS, "negative")["input_ids"].equal(ids)


def test_the_template_stands_around_the_prompt(omnigen):
    tokenizer = omnigen.tokenizers["tokenizer"]
    row = plugin.encode_prompt(omnigen, ["a cat"], "caption")["input_ids"][0].tolist()
    assert tokenizer.decode(row, skip_special_tokens=False) == (
        "<s><|user|>\nGenerate an image according to the following instructions\na cat<|end|>\n"
        "<|assistant|>\n<|diffusion|>"
    )
    marks = [tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("user", "end", "assistant", "diffusion")]
    assert [row.count(mark) for mark in marks] == [1, 1, 1, 1]


def test_a_dropped_caption_is_the_empty_prompt(omnigen):
    empty = plugin.encode_prompt(omnigen, [""], "negative")["input_ids"]
    assert plugin.encode_prompt(omnigen, ["a cat"], "unconditional")["input_ids"].equal(empty)
    assert empty.shape[1] < plugin.encode_prompt(omnigen, ["a cat"], "caption")["input_ids"].shape[1]


def test_long_captions_are_warned_of_and_not_cut(omnigen, caplog):
    tokens = len(plugin.encode_prompt(omnigen, [""], "caption")["input_ids"][0])
    with caplog.at_level(logging.WARNING, logger="tuner_omnigen"):
        at_limit = plugin.encode_prompt(omnigen, ["." * 122], "caption")["input_ids"]
        assert not caplog.records
        beyond = plugin.encode_prompt(omnigen, ["." * 500, "a cat"], "caption")["input_ids"]
    assert at_limit.shape == (1, tokens + 122)
    assert beyond.shape == (2, tokens + 500)
    assert len(caplog.records) == 1
    assert "a caption of 500 tokens is not cut" in caplog.text


def test_nothing_but_token_ids_is_cached(omnigen):
    conditioning = plugin.encode_prompt(omnigen, PROMPTS, "caption")
    assert {name: tensor.dtype for name, tensor in conditioning.items()} == {"input_ids": torch.int64}


def test_the_advised_length_is_that_of_the_warning(omnigen):
    (limit,) = plugin.describe_family().prompt_limits(NoOptions())
    assert (limit.tokenizer, limit.tokens, limit.counts, limit.cut) == ("tokenizer", 122, "prompt", False)
    prompts = ["", "." * 122, "." * 500]
    assert count_tokens(omnigen.tokenizers["tokenizer"], limit, prompts) == [0, 122, 500]
