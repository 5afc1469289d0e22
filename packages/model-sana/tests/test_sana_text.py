from __future__ import annotations

import pytest
import torch
from diffusers import SanaPipeline

from tuner_sana import plugin
from tuner_sana.facts import SanaOptions
from tuner_sana.text import instruction

PROMPTS = ["A Photo of a Cat  ", "x", "a street at dusk, " * 40, "café ☕ 🐈"]


@pytest.fixture(scope="module")
def pipeline(sana_twin) -> SanaPipeline:
    return SanaPipeline.from_pretrained(sana_twin)


@torch.no_grad()
def pipeline_embeds(pipeline, instruction_lines):
    return pipeline.encode_prompt(
        PROMPTS, negative_prompt=PROMPTS, device="cpu", complex_human_instruction=instruction_lines
    )


@torch.no_grad()
def test_captions_and_negatives_equal_the_pipelines(sana, pipeline):
    embeds, mask, negative_embeds, negative_mask = pipeline_embeds(pipeline, instruction(SanaOptions()))
    caption = plugin.encode_prompt(sana, PROMPTS, "caption")
    assert caption["prompt_embeds"].shape == (4, 300, 32)
    assert torch.equal(caption["prompt_embeds"], embeds)
    assert torch.equal(caption["prompt_attention_mask"], mask)
    for role in ("negative", "unconditional"):
        other = plugin.encode_prompt(sana, PROMPTS, role)
        assert torch.equal(other["prompt_embeds"], negative_embeds)
        assert torch.equal(other["prompt_attention_mask"], negative_mask)


@torch.no_grad()
def test_captions_are_the_first_and_last_299_tokens_behind_the_instruction(sana):
    tokenizer, encoder = sana.tokenizers["tokenizer"], sana.text_encoders["text_encoder"]
    lead = "\n".join(instruction(SanaOptions()))
    length = len(tokenizer.encode(lead)) + 300 - 2
    tokens = tokenizer(
        lead + "a photo of a cat", padding="max_length", max_length=length, padding_side="right", return_tensors="pt"
    )
    states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    expected = torch.cat([states[:, :1], states[:, -299:]], dim=1)
    caption = plugin.encode_prompt(sana, [" A photo of a CAT"], "caption")
    assert torch.equal(caption["prompt_embeds"], expected)
    assert caption["prompt_attention_mask"][0, 0] == 1
    assert caption["prompt_attention_mask"].sum() == 1 + tokens.attention_mask[:, -299:].sum()


@torch.no_grad()
def test_own_instruction_and_none_at_all(load_sana, pipeline):
    own = load_sana({"text_encoders"}, options=SanaOptions(sana_complex_human_instruction=["Draw", "this: "]))
    assert torch.equal(
        plugin.encode_prompt(own, PROMPTS, "caption")["prompt_embeds"], pipeline_embeds(pipeline, ["Draw", "this: "])[0]
    )
    off = load_sana({"text_encoders"}, options=SanaOptions(sana_complex_human_instruction="None"))
    caption, negative = (plugin.encode_prompt(off, PROMPTS, role) for role in ("caption", "negative"))
    assert torch.equal(caption["prompt_embeds"], negative["prompt_embeds"])


@torch.no_grad()
def test_a_prompt_encodes_alone_as_it_does_among_others(sana):
    together = plugin.encode_prompt(sana, PROMPTS, "caption")["prompt_embeds"]
    for row, prompt in enumerate(PROMPTS):
        alone = plugin.encode_prompt(sana, [prompt], "caption")["prompt_embeds"]
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
