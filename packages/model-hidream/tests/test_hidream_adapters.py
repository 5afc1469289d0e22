"""Which layers the LyCORIS files that people have for HiDream adapt."""

from __future__ import annotations

import re

import pytest
import torch

from tuner.adapters import create_trainable
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner_hidream import plugin

TOP = {
    "algo": "lokr",
    "multiplier": 1.0,
    "linear_dim": 16384,
    "linear_alpha": 1,
    "full_matrix": True,
    "use_scalar": True,
    "factor": 16,
}
SHARED_EXPERTS = {
    "name_algo_map": {
        "double_stream_blocks.*.block.attn*": {"factor": 16},
        "double_stream_blocks.*.block.ff_t*": {"factor": 16},
        "double_stream_blocks.*.block.ff_i.shared_experts*": {"factor": 16},
        "single_stream_blocks.*.block.attn*": {"factor": 16},
        "single_stream_blocks.*.block.ff_i.shared_experts*": {"factor": 16},
    },
    "use_fnmatch": True,
}
ATTENTION = {"target_module": ["Attention"], "module_algo_map": {"Attention": {"factor": 16}}}
BOTH = {"target_module": ["Attention", "FeedForward"], "module_algo_map": {"FeedForward": {"factor": 8}}}


@pytest.fixture
def adapted(load_hidream):
    def adapt(preset):
        denoiser = load_hidream({"denoiser"}).denoiser
        linears = [name for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)]
        trainable = create_trainable(
            model_type="lora",
            adapter=AdapterConfig(lora_type="lycoris"),
            lycoris=LycorisConfig.model_validate({**TOP, "apply_preset": preset}),
            facts=plugin.describe_family(),
            denoiser=denoiser,
            dtype=torch.float32,
            seed=0,
        )
        paths = {"lycoris_" + name.replace(".", "_"): name for name in linears}
        return {
            path
            for prefix, path in paths.items()
            if any(prefix + "." in name for name, _ in trainable.named_parameters())
        }, set(linears)

    return adapt


def matching(names, pattern):
    return {name for name in names if re.search(pattern, name)}


def test_the_shared_experts_file_adapts_attention_text_and_shared_experts_alone(adapted):
    found, linears = adapted(SHARED_EXPERTS)
    assert found == matching(linears, r"\.attn1\.|\.ff_t\.|\.shared_experts\.")
    assert len(found) == 8 + 2 * 4 + 3 + 3 * 3


def test_attention_means_hidreams_own_class(adapted):
    found, linears = adapted(ATTENTION)
    assert found == matching(linears, r"\.attn1\.")
    assert len(found) == 16


def test_feed_forward_means_every_expert(adapted):
    found, linears = adapted(BOTH)
    assert found == matching(linears, r"\.attn1\.|\.ff_[it]\.")
    assert len(found) == 16 + 3 * (4 + 1) * 3 + 3
