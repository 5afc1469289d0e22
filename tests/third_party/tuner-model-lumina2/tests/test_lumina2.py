from __future__ import annotations

import pytest
import torch
from diffusers import Lumina2Pipeline

from tuner.plugins import load_family
from tuner.types import Batch, ComponentRequest, Components
from tuner_lumina2 import plugin


@pytest.fixture(scope="module")
def components(tmp_path_factory) -> Components:
    facts = plugin.describe_family()
    return plugin.load_components(
        ComponentRequest(
            folder=plugin.make_twin(tmp_path_factory.mktemp("lumina2") / "twin"),
            parts=frozenset(facts.part_folders),
            dtype=torch.float32,
            device=torch.device("cpu"),
            options=facts.options(),
        )
    )


@pytest.mark.parametrize("name", ["lumina2", "Lumina"])
def test_both_names_lead_to_the_plugin(name):
    assert load_family(name).facts == plugin.describe_family()


def test_time_and_sign(components, monkeypatch):
    heard = {}

    def network(**arguments):
        heard.update(arguments)
        return (torch.full_like(arguments["hidden_states"], 3.0),)

    monkeypatch.setattr(components.denoiser, "forward", network)
    x = torch.zeros(3, 16, 4, 6)
    conditioning = {"prompt_embeds": torch.ones(3, 8, 32), "prompt_attention_mask": torch.ones(3, 8)}
    batch = Batch(x, torch.tensor([0.0, 0.25, 1.0]), x, conditioning)
    velocity = plugin.compute_loss(components, batch).velocity
    assert heard["timestep"].tolist() == [1.0, 0.75, 0.0]
    assert torch.equal(velocity, torch.full_like(x, -3.0))


def test_text_is_the_pipelines(components):
    pipeline = Lumina2Pipeline(
        tokenizer=components.tokenizers["tokenizer"],
        text_encoder=components.text_encoders["text_encoder"],
        transformer=components.denoiser,
        scheduler=components.scheduler,
        vae=components.codec.module,
    )
    with torch.no_grad():
        embeds, mask, negative, negative_mask = pipeline.encode_prompt(
            ["a red fox"], True, negative_prompt=["blurry"], device=torch.device("cpu")
        )
        caption = plugin.encode_prompt(components, ["a red fox"], "caption")
        unwanted = plugin.encode_prompt(components, ["blurry"], "negative")
    assert torch.equal(caption["prompt_embeds"], embeds)
    assert torch.equal(caption["prompt_attention_mask"], mask)
    assert torch.equal(unwanted["prompt_embeds"], negative)
    assert torch.equal(unwanted["prompt_attention_mask"], negative_mask)
    assert mask.sum() > negative_mask.sum() + 10  # the system prompt stands before captions alone
