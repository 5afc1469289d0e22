from __future__ import annotations

import logging

import pytest
import torch
from diffusers import AuraFlowPipeline

from tuner_auraflow import plugin
from tuner_auraflow.facts import AuraFlowOptions

PROMPTS = ["A Photo of a Cat  ", "x", "a street at dusk, " * 40, "café ☕ 🐈", ""]


@pytest.fixture(scope="module")
def pipeline(auraflow_twin) -> AuraFlowPipeline:
    return AuraFlowPipeline.from_pretrained(auraflow_twin)


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, 120),
        ({"auraflow_token_limit": 768}, 768),
        ({"auraflow_token_limit": 768, "tokenizer_max_length": 256}, 256),
        ({"tokenizer_max_length": 77}, 77),
        ({"tokenizer_max_length": 256}, 120),
    ],
)
@torch.no_grad()
def test_conditionings_equal_the_pipelines(load_auraflow, pipeline, options, length):
    components = load_auraflow({"text_encoders"}, options=AuraFlowOptions(**options))
    expected, _, negative, _ = pipeline.encode_prompt(
        PROMPTS, negative_prompt=PROMPTS, device="cpu", max_sequence_length=length
    )
    assert expected.shape == (5, length, 32)
    assert torch.equal(expected, negative)
    for role in ("caption", "negative", "unconditional"):
        conditioning = plugin.encode_prompt(components, PROMPTS, role)
        assert list(conditioning) == ["prompt_embeds"]
        assert torch.equal(conditioning["prompt_embeds"], expected)


@torch.no_grad()
def test_padding_is_zero_and_on_the_right(auraflow):
    tokenizer, encoder = auraflow.tokenizers["tokenizer"], auraflow.text_encoders["text_encoder"]
    embeds = plugin.encode_prompt(auraflow, ["a cat", ""], "caption")["prompt_embeds"]
    tokens = tokenizer("a cat", return_tensors="pt").input_ids
    length = tokens.shape[1]
    torch.testing.assert_close(embeds[0, :length], encoder(tokens)[0][0], rtol=0, atol=1e-5)
    assert embeds[0, :length].abs().sum(dim=1).min() > 0
    assert embeds[0, length:].abs().max() == 0
    assert embeds[1, 0].abs().max() > 0
    assert embeds[1, 1:].abs().max() == 0


@torch.no_grad()
def test_a_prompt_encodes_alone_as_it_does_among_others(auraflow):
    together = plugin.encode_prompt(auraflow, PROMPTS, "caption")["prompt_embeds"]
    for row, prompt in enumerate(PROMPTS):
        alone = plugin.encode_prompt(auraflow, [prompt], "caption")["prompt_embeds"]
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_cut_prompt_is_named(auraflow, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tuner"), "propagate", True)
    # One token for bos, one for the space before, one for each character: 120 tokens and 121.
    plugin.encode_prompt(auraflow, ["b" * 118, "a cat", "b" * 119], "caption")
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("tuner.")]
    assert messages == [f"a prompt of 121 tokens is cut to 120: '{'b' * 60}...'"]
