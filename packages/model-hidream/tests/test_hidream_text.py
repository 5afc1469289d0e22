from __future__ import annotations

import pytest
import torch
from diffusers import HiDreamImagePipeline

from tuner_hidream import plugin

PROMPTS = ["A Photo of a Cat  ", "x", "a street at dusk, " * 40, "café ☕", ""]


@pytest.fixture(scope="module")
def pipeline(hidream_twin) -> HiDreamImagePipeline:
    return HiDreamImagePipeline.from_pretrained(hidream_twin)


@torch.no_grad()
@pytest.mark.parametrize("role", ["caption", "negative", "unconditional"])
def test_conditionings_equal_the_pipelines(hidream, pipeline, role):
    t5, negative_t5, llama, negative_llama, pooled, negative_pooled = pipeline.encode_prompt(
        PROMPTS, negative_prompt=PROMPTS, device="cpu"
    )
    own = plugin.encode_prompt(hidream, PROMPTS, role)
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == {
        "prompt_embeds_t5": (5, 128, 32),
        "prompt_embeds_llama3": (5, 2, 128, 48),
        "pooled_prompt_embeds": (5, 64),
    }
    for theirs in ((t5, llama, pooled), (negative_t5, negative_llama, negative_pooled)):
        assert torch.equal(own["prompt_embeds_t5"], theirs[0])
        assert torch.equal(own["prompt_embeds_llama3"].transpose(0, 1), theirs[1])
        assert torch.equal(own["pooled_prompt_embeds"], theirs[2])


@torch.no_grad()
def test_each_tensor_is_what_its_encoder_gives(hidream):
    own = plugin.encode_prompt(hidream, ["a photo of a cat"], "caption")

    def encode(suffix, **more):
        tokens = hidream.tokenizers["tokenizer" + suffix](
            ["a photo of a cat"], padding="max_length", max_length=128, truncation=True, return_tensors="pt"
        )
        mask = {} if suffix in ("", "_2") else {"attention_mask": tokens.attention_mask}
        return hidream.text_encoders["text_encoder" + suffix](tokens.input_ids, **mask, **more)

    pooled = torch.cat([encode("").text_embeds, encode("_2").text_embeds], dim=-1)
    assert torch.equal(own["pooled_prompt_embeds"], pooled)
    assert torch.equal(own["prompt_embeds_t5"], encode("_3").last_hidden_state)
    layers = encode("_4", output_hidden_states=True).hidden_states[1:]  # the first is the embedding of the tokens
    torch.testing.assert_close(own["prompt_embeds_llama3"], torch.stack(layers, dim=1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_embeddings_keep_their_encoders_dtype(load_hidream):
    halves = load_hidream({"text_encoders"}, dtype=torch.bfloat16)
    own = plugin.encode_prompt(halves, ["a cat"], "caption")
    assert {tensor.dtype for tensor in own.values()} == {torch.bfloat16}


@torch.no_grad()
def test_a_prompt_encodes_alone_as_it_does_among_others(hidream):
    together = plugin.encode_prompt(hidream, PROMPTS, "caption")
    for row, prompt in enumerate(PROMPTS):
        alone = plugin.encode_prompt(hidream, [prompt], "caption")
        for name, tensor in alone.items():
            torch.testing.assert_close(tensor[0], together[name][row], rtol=0, atol=1e-5)
