from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from tuner.family.tokenizers import clip_tokenizer, llama_tokenizer, t5_tokenizer

MAKERS = [clip_tokenizer, llama_tokenizer, t5_tokenizer]
TEXTS = ["", "a Photo of a cat", "Zoë drinks ☕ 42!", "a  cat\n"]


@pytest.mark.parametrize("make", MAKERS)
def test_saved_and_read_again_it_is_the_same(make, tmp_path):
    tokenizer = make(["photo", "cat"], max_length=99)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.model_max_length == 99
    assert [again(text).input_ids for text in TEXTS] == [tokenizer(text).input_ids for text in TEXTS]


def test_llama_begins_with_bos_and_loses_nothing():
    tokenizer = llama_tokenizer(["photo", "cat"])
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token is None
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        assert tokens[0] == 1
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert len(tokenizer.encode("a photo cat")) == 5  # bos, space, a, photo, cat


@pytest.mark.parametrize("side", ["left", "right"])
def test_llama_is_padded_where_it_is_told_to(side):
    tokenizer = llama_tokenizer(padding_side=side)
    tokenizer.pad_token = tokenizer.eos_token
    mask = tokenizer("x", padding="max_length", max_length=4).attention_mask
    assert mask == ([0, 1, 1, 1] if side == "left" else [1, 1, 1, 0])  # bos, space, x


def test_t5_ends_with_eos_and_knows_its_words():
    tokenizer = t5_tokenizer(["photo", "cat"])
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.tokenize("photo cat") == ["\u2581photo", "\u2581cat"]
    assert tokenizer.encode("")[-1] == tokenizer.encode("a cat")[-1] == 1
    assert tokenizer.decode(tokenizer.encode("A cat!"), skip_special_tokens=True) == "A cat!"
    assert 2 in tokenizer.encode("☕")


def test_clip_marks_start_and_end_and_pads_with_the_end():
    tokenizer = clip_tokenizer(["photo", "cat"])
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenizer.pad_token_id == end
    tokens = tokenizer("A photo CAT", padding="max_length", max_length=8).input_ids
    assert tokens[0] == start
    assert tokens[4:] == [end] * 4  # after a, photo and cat
    assert tokenizer.tokenize("photo cat") == ["photo</w>", "cat</w>"]
    assert tokenizer.unk_token_id not in tokenizer("Zoë ☕").input_ids[1:-1]
