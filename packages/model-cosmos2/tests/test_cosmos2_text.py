from __future__ import annotations

import pytest
import torch
from diffusers import Cosmos2TextToImagePipeline

from tuner_cosmos2 import plugin
from tuner_cosmos2.guardrail import Unchecked

PROMPTS = ["A Photo of a Cat  ", "", "a street at dusk, " * 40, "café ☕ 🐈"]


@torch.no_grad()
@pytest.mark.parametrize("role", ["caption", "negative", "unconditional"])
def test_embeds_equal_the_pipelines(cosmos2, cosmos2_twin, role):
    pipeline = Cosmos2TextToImagePipeline.from_pretrained(cosmos2_twin, safety_checker=Unchecked())
    expected, negative = pipeline.encode_prompt(PROMPTS, negative_prompt=PROMPTS, device="cpu")
    conditioning = plugin.encode_prompt(cosmos2, PROMPTS, role)
    assert conditioning["prompt_embeds"].shape == (4, 512, 32)
    assert torch.equal(conditioning["prompt_embeds"], negative if role != "caption" else expected)


@torch.no_grad()
def test_embeds_are_zero_beyond_the_prompt(cosmos2):
    conditioning = plugin.encode_prompt(cosmos2, PROMPTS, "caption")
    tokenizer = cosmos2.tokenizers["tokenizer"]
    for embeds, prompt in zip(conditioning["prompt_embeds"], PROMPTS, strict=True):
        length = min(512, len(tokenizer.encode(prompt)))
        assert bool((embeds[:length].abs().sum(dim=1) > 0).all())
        assert not bool(embeds[length:].any())


@torch.no_grad()
def test_the_ids_spell_the_prompt(cosmos2):
    ids = plugin.encode_prompt(cosmos2, ["A photo of a cat.", ""], "caption")["prompt_ids"]
    assert ids.shape == (2, 512)
    assert cosmos2.tokenizers["tokenizer"].batch_decode(ids, skip_special_tokens=True) == ["A photo of a cat.", ""]
