from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from tuner.plugins import create_manager, load_family
from tuner_sana import plugin
from tuner_sana.facts import SanaOptions


def test_facts_and_policy_import_no_torch():
    code = (
        "import sys; from tuner_sana import plugin; from tuner_sana.facts import SanaOptions; plugin.describe_family();"
        "plugin.quantisation_policy(SanaOptions());"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_point_leads_to_the_plugin():
    family = load_family("Sana")
    assert family.facts == plugin.describe_family()
    assert create_manager(family).hook.describe_family().default_flavour == "sana1.5-4.8b-1024"


def test_flavours():
    repos = {name: flavour.repo for name, flavour in plugin.describe_family().flavours.items()}
    assert repos == {
        "sana1.5-4.8b-1024": "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",
        "sana1.5-1.6b-1024": "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
        "sana1.0-1.6b-2048": "Efficient-Large-Model/Sana_1600M_2Kpx_BF16_diffusers",
        "sana1.0-1.6b-1024": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
        "sana1.0-600m-1024": "Efficient-Large-Model/Sana_600M_1024px_diffusers",
        "sana1.0-600m-512": "Efficient-Large-Model/Sana_600M_512px_diffusers",
    }


def test_facts_agree_with_the_twin(sana, sana_twin):
    facts = plugin.describe_family()
    config = sana.denoiser.config
    assert (config.in_channels, config.patch_size) == (facts.latent_channels, facts.patch_size)
    assert sana.codec.module.spatial_compression_ratio == facts.latent_stride
    assert facts.pixel_alignment % (facts.latent_stride * facts.patch_size) == 0
    for folders in facts.part_folders.values():
        assert all((sana_twin / folder).is_dir() for folder in folders)
    names = [name for name, _ in sana.denoiser.named_modules()]
    for target in facts.adapter_targets:
        assert sum(name.endswith("." + target) for name in names) == 4  # 2 layers, self- and cross-attention
    classes = {type(module).__name__ for module in sana.denoiser.modules()}
    assert classes >= {own for owns in facts.class_aliases.values() for own in owns}


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (None, None),
        ("", None),
        ("None", ()),
        ("none", ()),
        (False, ()),
        ([], ()),
        (["", " "], ()),
        ("Draw this: ", ("Draw this: ",)),
        (["Draw", "this: "], ("Draw", "this: ")),
    ],
)
def test_instruction_forms(given, lines):
    assert SanaOptions(sana_complex_human_instruction=given).sana_complex_human_instruction == lines


def test_instruction_from_a_file(tmp_path):
    path = tmp_path / "instruction.txt"
    path.write_text("Draw\nthis: \n", encoding="utf-8")
    assert SanaOptions(sana_complex_human_instruction=str(path)).sana_complex_human_instruction == ("Draw", "this: ")


def test_a_missing_or_empty_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValidationError, match=r"missing\.txt is no text file"):
        SanaOptions(sana_complex_human_instruction=str(tmp_path / "missing.txt"))
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ValidationError, match=r"empty\.txt is empty; write None"):
        SanaOptions(sana_complex_human_instruction=str(tmp_path / "empty.txt"))


@pytest.mark.parametrize("given", [3, [1, 2], {"a": "b"}, True])
def test_other_types_are_refused(given):
    with pytest.raises(ValidationError, match="sana_complex_human_instruction"):
        SanaOptions(sana_complex_human_instruction=given)


def test_unknown_options_are_refused():
    with pytest.raises(ValidationError, match="sana_instruction"):
        SanaOptions(sana_instruction="x")


def test_policy_never_lets_the_codec_be_quantised():
    policy = plugin.quantisation_policy(SanaOptions())
    assert set(policy.parts) == {"text_encoders", "denoiser"}
    for part in policy.parts.values():
        assert "no_change" in part.allowed
        assert not set(part.allowed) & set(part.discouraged)
        assert "int8-quanto" in part.discouraged["fp8-quanto"]


@pytest.mark.parametrize(
    ("instruction", "tokens", "text"),
    [("None", 299, "a cat"), ("Draw: ", 298, "Draw: a cat"), (["Draw", "this: "], 298, "Draw\nthis: a cat")],
)
def test_prompts_are_limited_behind_the_instruction(instruction, tokens, text):
    options = SanaOptions(sana_complex_human_instruction=instruction)
    (limit,) = plugin.describe_family().prompt_limits(options)
    assert (limit.tokenizer, limit.tokens, limit.counts, limit.cut) == ("tokenizer", tokens, "prompt", True)
    assert limit.text(" A Cat ") == text


def test_the_published_instruction_stands_before_prompts():
    (limit,) = plugin.describe_family().prompt_limits(SanaOptions())
    assert limit.tokens == 298
    assert limit.text("A Cat").startswith("Given a user prompt, generate an 'Enhanced prompt'")
    assert limit.text("A Cat").endswith("User Prompt: a cat")
