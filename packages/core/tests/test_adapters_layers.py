"""Which layers a LyCORIS preset chooses."""

from __future__ import annotations

import pytest
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from pydantic import ValidationError
from torch import nn

from tuner.adapters.lycoris_layers import select_layers
from tuner.config.lycoris import LycorisPreset
from tuner.errors import ConfigError


class OddFeedForward(FeedForward):
    pass


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention(16, heads=2, dim_head=8)
        self.ff = OddFeedForward(16)
        self.conv = nn.Conv2d(16, 16, 3)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(16, 4)


ATTENTION = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
ALIASES = {"FeedForward": ("OddFeedForward",)}


def select(**preset):
    return select_layers(Model(), LycorisPreset(**preset), ALIASES, "lycoris.json")


def names(**preset):
    return [layer.name for layer in select(**preset).layers]


def in_blocks(*inner):
    return [f"blocks.{index}.{name}" for index in (0, 1) for name in inner]


def factors(**preset):
    return {layer.name: layer.settings and layer.settings.factor for layer in select(**preset).layers}


def test_nothing_named_means_attention_and_feed_forward():
    assert names() == in_blocks(*ATTENTION, *FEED_FORWARD)


def test_aliases_and_exact_classes():
    assert names(target_module=["FeedForward"]) == in_blocks(*FEED_FORWARD)
    assert names(target_module=["OddFeedForward"]) == in_blocks(*FEED_FORWARD)
    assert names(target_module=["Block"]) == in_blocks(*ATTENTION, *FEED_FORWARD, "conv")


def test_each_selection_stands_alone():
    select(target_module=["Block"], name_algo_map={"head": {"factor": 2}}, exclude_name=[".*to_k"])
    assert names() == in_blocks(*ATTENTION, *FEED_FORWARD)
    assert names(target_module=["Linear"])[-1] == "head"


def test_names_alone_adapt_these_layers_alone():
    assert names(name_algo_map={"blocks.1.attn.*": {"factor": 2}}, use_fnmatch=True) == [
        f"blocks.1.{name}" for name in ATTENTION
    ]
    assert names(name_algo_map={r"blocks\.0\.ff": {}}) == [f"blocks.0.{name}" for name in FEED_FORWARD]
    assert names(target_name=["head"]) == ["head"]


def test_names_beat_classes_and_earlier_names_later_ones():
    found = factors(
        target_module=["Attention"],
        module_algo_map={"Attention": {"factor": 8}},
        name_algo_map={"blocks.0.*to_q": {"factor": 2}, "*to_[qk]": {"factor": 4}, "head": {"factor": 3}},
        use_fnmatch=True,
    )
    assert found["blocks.0.attn.to_q"] == 2
    assert found["blocks.1.attn.to_q"] == found["blocks.0.attn.to_k"] == 4
    assert found["blocks.0.attn.to_v"] == 8
    assert found["head"] == 3
    assert len(found) == 9


def test_the_nearest_class_gives_the_settings():
    found = factors(module_algo_map={"Block": {"factor": 2}, "FeedForward": {"dim": 4, "factor": 6}})
    assert found["blocks.0.attn.to_q"] == 2
    assert found["blocks.0.ff.net.2"] == 6
    assert select(module_algo_map={"FeedForward": {"dim": 4}}).layers[0].settings.linear_dim == 4


def test_excluded_names_and_what_is_inside_them():
    assert names(target_module=["Attention"], exclude_name=["blocks.0"], use_fnmatch=True) == [
        f"blocks.1.{name}" for name in ATTENTION
    ]


def test_matches_are_counted():
    matches = select(target_module=["Attention"], name_algo_map={"head": {}}, exclude_name=[".*to_k"]).matches
    assert matches == {"exclude .*to_k": 2, "Attention": 6, "head": 1}


def test_what_matches_nothing_is_named_with_the_nearest():
    with pytest.raises(ConfigError) as raised:
        select(target_module=["Attention", "Atention"], name_algo_map={"blocks.0.atn.to_q": {}}, exclude_name=["tail"])
    problems = {problem.key: problem for problem in raised.value.problems}
    assert problems["apply_preset.target_module"].remedy == "did you mean Attention?"
    assert "'Atention'" in problems["apply_preset.target_module"].message
    assert "OddFeedForward" in problems["apply_preset.target_module"].message
    assert problems["apply_preset.name_algo_map"].remedy == "did you mean blocks.0.attn.to_q?"
    assert problems["apply_preset.exclude_name"].file == "lycoris.json"


def test_a_hidden_pattern_is_refused():
    with pytest.raises(ConfigError, match="to_q"):
        select(name_algo_map={"*.attn.*": {}, "*.to_q": {}}, use_fnmatch=True)


def test_a_glob_where_a_regular_expression_belongs():
    with pytest.raises(ConfigError, match="use_fnmatch"):
        select(name_algo_map={"*.to_q": {}})


def test_unknown_layer_settings_are_refused():
    with pytest.raises(ValidationError, match="factr"):
        LycorisPreset(module_algo_map={"Attention": {"factr": 8}})
