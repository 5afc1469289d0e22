from __future__ import annotations

import pytest
import torch

from tuner.randomness import normal_tensor
from tuner.types import Batch
from tuner_omnigen import plugin
from tuner_omnigen.facts import PADDING
from tuner_omnigen.velocity import lay_out

PROMPTS = ["a photo of a cat on a wooden table", "a dog"]
HEIGHT, WIDTH = 64, 96
TOKENS = 4 * 6


@pytest.fixture
def reference(omnigen, published_processor):
    """Give the network's inputs as the pipeline's own processor makes them of prompts."""
    processor = published_processor(omnigen.tokenizers["tokenizer"])

    def inputs(prompts):
        texts = [processor.process_multi_modal_prompt(prompt, None) for prompt in prompts]
        ids, positions, mask, *_ = processor.collator.process_mllm_input(texts, [[HEIGHT, WIDTH]] * len(prompts))
        return {"input_ids": ids, "position_ids": positions, "attention_mask": mask}

    return inputs


def make_batch(omnigen, prompts=PROMPTS, sigma=(0.2, 0.9), dtype=torch.float32) -> Batch:
    x = normal_tensor((len(prompts), 4, HEIGHT // 8, WIDTH // 8), 0, "x").to(dtype)
    return Batch(x, torch.tensor(sigma), torch.zeros_like(x), plugin.encode_prompt(omnigen, prompts, "caption"))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_laid_out_as_by_the_pipeline(omnigen, reference, prompt):
    ours = lay_out(plugin.encode_prompt(omnigen, [prompt], "caption")["input_ids"], TOKENS)
    theirs = reference([prompt])
    assert ours["input_ids"].equal(theirs["input_ids"])
    assert ours["position_ids"].equal(theirs["position_ids"])
    assert ours["attention_mask"][:, 0].equal(theirs["attention_mask"] == 1)


def test_prompts_of_different_length_are_laid_out_as_by_the_pipeline(omnigen, reference):
    ids = plugin.encode_prompt(omnigen, PROMPTS, "caption")["input_ids"]
    ours, theirs = lay_out(ids, TOKENS), reference(PROMPTS)
    padding = int((ids[1] == PADDING).sum())
    assert padding > 10
    assert ours["attention_mask"][:, 0].equal(theirs["attention_mask"] == 1)
    assert ours["input_ids"][0].equal(theirs["input_ids"][0])
    assert ours["input_ids"][1, padding:].equal(theirs["input_ids"][1, padding:])


@torch.no_grad()
def test_velocity_is_the_negative_output_at_one_minus_sigma(omnigen, reference):
    batch = make_batch(omnigen)
    prediction = plugin.compute_loss(omnigen, batch)
    assert prediction.weight is None
    assert not prediction.auxiliary
    for row, prompt in enumerate(PROMPTS):
        raw = omnigen.denoiser(
            batch.x[row : row + 1],
            timestep=1 - batch.sigma[row : row + 1],
            input_img_latents=[],
            input_image_sizes={},
            **reference([prompt]),
        ).sample
        torch.testing.assert_close(prediction.velocity[row : row + 1], -raw, rtol=0, atol=1e-5)


@torch.no_grad()
def test_padding_beyond_the_longest_prompt_changes_nothing(omnigen):
    batch = make_batch(omnigen)
    ids = batch.conditioning["input_ids"]
    longer = torch.cat([ids, ids.new_full((2, 9), PADDING)], dim=1)
    padded = Batch(batch.x, batch.sigma, batch.target, {"input_ids": longer})
    expected = plugin.compute_loss(omnigen, batch).velocity
    torch.testing.assert_close(plugin.compute_loss(omnigen, padded).velocity, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_time_stays_float32(omnigen, monkeypatch):
    heard = []
    forward = omnigen.denoiser.forward
    monkeypatch.setattr(omnigen.denoiser, "forward", lambda *a, **k: heard.append(k["timestep"]) or forward(*a, **k))
    omnigen.denoiser.to(torch.bfloat16)
    velocity = plugin.compute_loss(omnigen, make_batch(omnigen, sigma=(0.001, 1.0), dtype=torch.bfloat16)).velocity
    assert heard[0].dtype == torch.float32
    assert heard[0].tolist() == pytest.approx([0.999, 0.0], abs=1e-7)
    assert velocity.isfinite().all()


@torch.no_grad()
def test_velocity_depends_on_text_and_time(omnigen):
    def velocity(prompt, sigma):
        return plugin.compute_loss(omnigen, make_batch(omnigen, [prompt], (sigma,))).velocity

    base = velocity("a cat", 0.5)
    assert (velocity("three red boats", 0.5) - base).std() > 0.02 * base.std()
    assert (velocity("a cat", 0.9) - base).std() > 0.02 * base.std()
