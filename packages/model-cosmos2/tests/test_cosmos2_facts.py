from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from tuner.plugins import create_manager, load_family
from tuner.randomness import normal_tensor
from tuner.types import Batch
from tuner_cosmos2 import plugin
from tuner_cosmos2.facts import Cosmos2Options


def test_facts_and_policy_import_no_torch():
    code = (
        "import sys; from tuner_cosmos2 import plugin; from tuner_cosmos2.facts import Cosmos2Options;"
        "plugin.describe_family(); plugin.quantisation_policy(Cosmos2Options());"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["cosmos2", "cosmos2image", "Cosmos2Image"])
def test_both_names_lead_to_the_plugin(name):
    family = load_family(name)
    assert family.facts == plugin.describe_family()
    assert create_manager(family).hook.describe_family().default_flavour == "2b"


def test_facts_agree_with_the_twin(cosmos2, cosmos2_twin):
    facts = plugin.describe_family()
    config = cosmos2.denoiser.config
    assert (config.in_channels, config.patch_size[1]) == (facts.latent_channels, facts.patch_size)
    assert cosmos2.codec.module.spatial_compression_ratio == facts.latent_stride
    assert facts.pixel_alignment == facts.latent_stride * facts.patch_size
    for folders in facts.part_folders.values():
        assert all((cosmos2_twin / folder).is_dir() for folder in folders)
    names = [name for name, _ in cosmos2.denoiser.named_modules()]
    for target in facts.adapter_targets:
        assert sum(name.endswith("." + target) for name in names) == 4  # 2 layers, self- and cross-attention
    classes = {type(module).__name__ for module in cosmos2.denoiser.modules()}
    assert classes >= {own for owns in facts.class_aliases.values() for own in owns}


@torch.no_grad()
def test_side_limit_is_where_the_network_ends(cosmos2):
    limit = plugin.describe_family().side_limit(dict(cosmos2.denoiser.config))
    assert limit == 2048
    conditioning = plugin.encode_prompt(cosmos2, ["a cat"], "caption")

    def predict(width):
        x = normal_tensor((1, 16, 1, 2, width // 8), 0, "x")
        return plugin.compute_loss(cosmos2, Batch(x, torch.tensor([0.5]), x, conditioning)).velocity

    assert bool(predict(limit).isfinite().all())
    with pytest.raises(RuntimeError, match="size"):
        predict(limit + 16)


def test_learnt_positions_have_a_table_for_each_axis():
    config = {"max_size": [128, 240, 200], "patch_size": [1, 2, 2], "extra_pos_embed_type": "learnable"}
    assert plugin.describe_family().side_limit(config) == 1600


def test_every_scheme_is_refused_with_the_reason():
    parts = plugin.quantisation_policy(Cosmos2Options()).parts
    assert set(parts) == {"text_encoders", "denoiser"}
    for part in parts.values():
        assert part.allowed == ("no_change",)
        assert {"int8-quanto", "int4-quanto", "int8-torchao", "fp8-torchao", "nf4-bnb"} <= set(part.refused)
        assert all("no_change" in reason for reason in part.refused.values())


def test_the_option_is_off_and_says_what_it_turns_off():
    assert Cosmos2Options().cosmos2_sample_without_guardrail is False
    text = str(Cosmos2Options.model_fields["cosmos2_sample_without_guardrail"].description)
    assert all(word in text for word in ("prompts", "pictures", "faces", "licence"))
    with pytest.raises(ValidationError, match="cosmos2_no_guardrail"):
        Cosmos2Options(cosmos2_no_guardrail=True)


def test_every_tokenizer_takes_512_tokens():
    facts = plugin.describe_family()
    assert (facts.token_limit, facts.prompt_limits) == (512, None)
