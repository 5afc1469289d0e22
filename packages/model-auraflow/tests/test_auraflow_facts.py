from __future__ import annotations

import json
import logging
import subprocess
import sys
from fnmatch import fnmatch

import pytest
import torch
from pydantic import ValidationError

from tuner.plugins import create_manager, load_family
from tuner.randomness import normal_tensor
from tuner.types import Batch, PromptLimit
from tuner_auraflow import plugin
from tuner_auraflow.facts import AuraFlowOptions, side_limit


def test_facts_and_policy_import_no_torch():
    code = (
        "import sys; from tuner_auraflow import plugin; from tuner_auraflow.facts import AuraFlowOptions;"
        "plugin.describe_family(); plugin.quantisation_policy(AuraFlowOptions());"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_point_leads_to_the_plugin():
    family = load_family("AuraFlow")
    assert family.facts == plugin.describe_family()
    assert create_manager(family).hook.describe_family().default_flavour == "v0.3"


def test_flavours():
    repos = {name: flavour.repo for name, flavour in plugin.describe_family().flavours.items()}
    assert repos == {
        "v0.3": "terminusresearch/auraflow-v0.3",
        "v0.2": "fal/AuraFlow-v0.2",
        "v0.1": "fal/AuraFlow",
        "pony": "purplesmartai/pony-v7-base",
    }


def test_facts_agree_with_the_twin(auraflow, auraflow_twin):
    facts = plugin.describe_family()
    config = auraflow.denoiser.config
    assert (config.in_channels, config.patch_size) == (facts.latent_channels, facts.patch_size)
    assert 2 ** (len(auraflow.codec.module.config.block_out_channels) - 1) == facts.latent_stride
    assert facts.pixel_alignment % (facts.latent_stride * facts.patch_size) == 0
    for folders in facts.part_folders.values():
        assert all((auraflow_twin / folder).is_dir() for folder in folders)
    names = [name for name, _ in auraflow.denoiser.named_modules()]
    layers = {target: sum(name.endswith("." + target) for name in names) for target in facts.adapter_targets}
    image, text = ("to_q", "to_k", "to_v", "to_out.0"), ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    # 1 joint layer and 2 single ones; only the joint one has layers of its own for text.
    assert layers == {**dict.fromkeys(image, 3), **dict.fromkeys(text, 1)}
    classes = {type(module).__name__ for module in auraflow.denoiser.modules()}
    assert classes >= {own for owns in facts.class_aliases.values() for own in owns}


@pytest.mark.parametrize(("positions", "pixels"), [(256, 256), (1024, 512), (4096, 1024), (9216, 1536), (9300, 1536)])
def test_side_limit(positions, pixels):
    assert side_limit({"pos_embed_max_size": positions, "patch_size": 2}) == pixels


@torch.no_grad()
def test_the_network_takes_pictures_up_to_the_side_limit_and_none_beyond(auraflow):
    side = side_limit(auraflow.denoiser.config) // 8
    conditioning = plugin.encode_prompt(auraflow, ["a cat"], "caption")

    def velocity(height, width):
        x = normal_tensor((1, 4, height, width), 0, "x")
        return plugin.compute_loss(auraflow, Batch(x, torch.tensor([0.5]), x, conditioning)).velocity

    assert side == 32
    assert velocity(side, side).isfinite().all()
    assert velocity(side, 2).shape == (1, 4, side, 2)
    with pytest.raises((IndexError, RuntimeError)):
        velocity(side + 2, side + 2)


def test_a_length_beyond_the_limit_is_lowered_with_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tuner"), "propagate", True)
    assert AuraFlowOptions().tokens == 120
    assert AuraFlowOptions(tokenizer_max_length="77").tokens == 77
    assert AuraFlowOptions(tokenizer_max_length=768, auraflow_token_limit=768).tokens == 768
    assert not caplog.records
    assert AuraFlowOptions(tokenizer_max_length=128).tokenizer_max_length == 120
    assert "tokenizer_max_length 128 is lowered to 120" in caplog.text
    assert "auraflow_token_limit" in caplog.text


@pytest.mark.parametrize("given", [{"tokenizer_max_length": 0}, {"auraflow_token_limit": 0}, {"auraflow_tokens": 5}])
def test_senseless_options_are_refused(given):
    with pytest.raises(ValidationError, match=next(iter(given))):
        AuraFlowOptions(**given)


def test_policy_never_lets_the_codec_be_quantised():
    policy = plugin.quantisation_policy(AuraFlowOptions())
    assert set(policy.parts) == {"text_encoders", "denoiser"}
    for part in policy.parts.values():
        assert "no_change" in part.allowed
        assert not set(part.allowed) & set(part.discouraged)
        assert "int8-quanto" in part.discouraged["fp8-quanto"]


def test_layers_that_the_policy_leaves_alone_exist(auraflow):
    parts = plugin.quantisation_policy(AuraFlowOptions()).parts
    for part, module in (("denoiser", auraflow.denoiser), ("text_encoders", auraflow.text_encoders["text_encoder"])):
        names = [name for name, _ in module.named_modules()]
        for pattern in parts[part].skip_layers:
            assert any(fnmatch(name, pattern) for name in names), f"{pattern} matches no layer of {part}"


def test_pony_has_its_own_token_limit(tmp_path, monkeypatch):
    from tuner.config.loading import load_config

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "data.json").write_text(json.dumps([{"id": "p", "instance_data_dir": "pictures"}]))
    settings = {
        "model_family": "auraflow", "model_type": "lora", "output_dir": "o", "data_backend_config": "data.json",
        "optimizer": "optimi-adamw", "max_train_steps": 1,
    }  # fmt: skip
    for flavour, limit in [("pony", 768), ("v0.3", 120)]:
        (tmp_path / "config.json").write_text(json.dumps({**settings, "model_flavour": flavour}))
        assert load_config(tmp_path / "config.json").config.family.auraflow_token_limit == limit


@pytest.mark.parametrize(
    ("options", "tokens"),
    [({}, 120), ({"auraflow_token_limit": 768}, 768), ({"tokenizer_max_length": 77}, 77)],
    ids=["v0.3", "pony", "shorter"],
)
def test_prompts_are_limited_as_the_options_say(options, tokens):
    limits = plugin.describe_family().prompt_limits(AuraFlowOptions(**options))
    assert limits == (PromptLimit("tokenizer", tokens),)
