from __future__ import annotations

import subprocess
import sys

from tuner.plugins import create_manager, load_family
from tuner.types import NoOptions
from tuner_omnigen import plugin


def test_facts_and_policy_import_no_torch():
    code = (
        "import sys; from tuner_omnigen import plugin; from tuner.types import NoOptions; plugin.describe_family();"
        "plugin.quantisation_policy(NoOptions());"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_point_leads_to_the_plugin():
    family = load_family("OmniGen")
    assert (family.facts.name, family.facts.default_flavour) == ("omnigen", "v1")
    assert create_manager(family).hook.describe_family().flavours["v1"].repo == "Shitao/OmniGen-v1-diffusers"


def test_facts_agree_with_the_twin(omnigen, omnigen_twin):
    facts, config = plugin.describe_family(), omnigen.denoiser.config
    assert (config.in_channels, config.patch_size) == (facts.latent_channels, facts.patch_size)
    assert 2 ** (len(omnigen.codec.module.config.block_out_channels) - 1) == facts.latent_stride
    names = [name for name, _ in omnigen.denoiser.named_modules()]
    for target in facts.adapter_targets:
        assert sum(name.endswith("." + target) for name in names) == 2  # one per layer
    classes = [type(module).__name__ for module in omnigen.denoiser.modules()]
    assert [classes.count(own) for owns in facts.class_aliases.values() for own in owns] == [2, 2]
    assert all((omnigen_twin / folder).is_dir() for folders in facts.part_folders.values() for folder in folders)


def test_the_longest_side_is_that_of_the_table_of_positions(omnigen):
    facts = plugin.describe_family()
    assert facts.side_limit(omnigen.denoiser.config) == 512
    assert facts.side_limit({"pos_embed_max_size": 192}) == 3072


def test_policy_is_about_the_denoiser_alone(omnigen):
    parts = plugin.quantisation_policy(NoOptions()).parts
    assert set(parts) == {"denoiser"}
    children = {name for name, _ in omnigen.denoiser.named_children()}
    assert {pattern.strip("*") for pattern in parts["denoiser"].skip_layers} <= children
