from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from tuner.plugins import create_manager, load_family
from tuner_hidream import plugin
from tuner_hidream.facts import HiDreamOptions


def test_facts_and_policy_import_no_torch():
    code = (
        "import sys; from tuner_hidream import plugin; from tuner_hidream.facts import HiDreamOptions;"
        "plugin.describe_family(); plugin.quantisation_policy(HiDreamOptions());"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_point_leads_to_the_plugin():
    family = load_family("HiDream")
    assert family.facts == plugin.describe_family()
    assert create_manager(family).hook.describe_family().default_flavour == "full"


def test_flavours_and_where_llama_comes_from():
    facts = plugin.describe_family()
    assert {name: flavour.repo for name, flavour in facts.flavours.items()} == {
        "full": "HiDream-ai/HiDream-I1-Full",
        "dev": "HiDream-ai/HiDream-I1-Dev",
        "fast": "HiDream-ai/HiDream-I1-Fast",
    }
    assert ["distilled to" in flavour.warning for flavour in facts.flavours.values()] == [False, True, True]
    assert facts.borrowed_folders == dict.fromkeys(
        ("text_encoder_4", "tokenizer_4"), "terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct"
    )


def test_facts_agree_with_the_twin(hidream, hidream_twin):
    facts = plugin.describe_family()
    config = hidream.denoiser.config
    assert (config.in_channels, config.patch_size) == (facts.latent_channels, facts.patch_size)
    assert 2 ** (len(hidream.codec.module.config.block_out_channels) - 1) == facts.latent_stride
    for folders in facts.part_folders.values():
        assert all((hidream_twin / folder).is_dir() for folder in folders)
    names = [name for name, _ in hidream.denoiser.named_modules()]
    for target in facts.adapter_targets:
        assert sum(name.endswith("." + target) for name in names) == 3  # one attention per block


def test_options_have_the_documented_defaults():
    options = HiDreamOptions()
    assert options.hidream_use_load_balancing_loss is False
    assert options.hidream_load_balancing_loss_weight == 0.01


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "much"])
def test_a_weight_that_makes_no_sense_is_refused(weight):
    with pytest.raises(ValidationError, match="hidream_load_balancing_loss_weight"):
        HiDreamOptions(hidream_load_balancing_loss_weight=weight)


def test_policy_leaves_the_codec_alone():
    policy = plugin.quantisation_policy(HiDreamOptions())
    assert set(policy.parts) == {"text_encoders", "denoiser"}
    for part in policy.parts.values():
        assert "int8-quanto" in part.allowed
        assert "int8-quanto" in part.discouraged["fp8-quanto"]


def test_base_and_llama_are_quantised_by_one_library():
    facts = plugin.describe_family()
    encoders = facts.text_encoder_folders
    assert encoders == ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
    policy = plugin.quantisation_policy(HiDreamOptions())
    number = encoders.index(next(name for name in facts.borrowed_folders if name in encoders)) + 1
    assert policy.one_library == ("base_model_precision", f"text_encoder_{number}_precision")


def test_every_tokenizer_takes_128_tokens():
    facts = plugin.describe_family()
    assert (facts.token_limit, facts.prompt_limits) == (128, None)
