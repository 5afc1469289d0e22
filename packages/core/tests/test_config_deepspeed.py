"""DeepSpeed's settings against the run's own, and what they share out."""

import json
from pathlib import Path

import pytest

from tuner.config.deepspeed import deepspeed_problems
from tuner.config.loading import load_config
from tuner.config.topics import TOPICS
from tuner.errors import ConfigError


def found(content, **settings):
    given = {"train_batch_size": 2, "gradient_accumulation_steps": 3, "max_train_steps": 10, "num_train_epochs": 0}
    given |= {"optimizer": "optimi-adamw", "learning_rate": 1e-5, "grad_clip_method": "norm", "max_grad_norm": 1.0}
    given |= {"model_family": "toy", "model_type": "full", "output_dir": "out"}
    given |= {"data_backend_config": "data.json", **settings}
    topics = {
        name: topic(**{key: value for key, value in given.items() if key in topic.model_fields})
        for name, topic in TOPICS.items()
    }
    return {problem.key: problem.message for problem in deepspeed_problems(content, "ds.json", topics)}


AGREES = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 3,
    "train_batch_size": 6,
    "gradient_clipping": 1.0,
    "bf16": {"enabled": True},
    "fp16": {"enabled": False},
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": {"device": "none"},
        "offload_param": {"device": "none"},
    },
}


@pytest.mark.parametrize(
    "content",
    [{}, AGREES, dict.fromkeys(("train_batch_size", "gradient_clipping", "gradient_accumulation_steps"), "auto")],
)
def test_what_agrees_is_no_problem(content):
    assert found(content) == {}


@pytest.mark.parametrize(
    ("content", "settings", "key", "message"),
    [
        ({"train_micro_batch_size_per_gpu": 4}, {}, None, "4 contradicts train_batch_size, which is 2"),
        ({"gradient_accumulation_steps": 1}, {}, None, "1 contradicts gradient_accumulation_steps, which is 3"),
        ({"train_batch_size": 6}, {"num_processes": 2}, None, "which is 12"),
        ({"gradient_clipping": 0.5}, {}, None, "0.5 contradicts max_grad_norm, which is 1.0"),
        ({"gradient_clipping": 1.0}, {"grad_clip_method": "value"}, None, "limits the norm"),
        ({"optimizer": {"type": "AdamW"}}, {}, None, "optimizer says this already"),
        ({"scheduler": {"type": "WarmupLR"}}, {}, None, "lr_scheduler says this already"),
        ({"bf16": {"enabled": False}}, {}, "bf16.enabled", "False contradicts mixed_precision bf16, which is True"),
        ({"fp16": {"enabled": True}}, {}, "fp16.enabled", "which is False"),
        ({"fp16": True}, {}, None, "must be an object"),
        ({"zero_optimization": 2}, {}, None, "must be an object"),
        ({"zero_optimization": {"stage": 4}}, {}, "zero_optimization.stage", "4 is no ZeRO stage"),
        ({"zero_optimization": {"stage": True}}, {}, "zero_optimization.stage", "True is no ZeRO stage"),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            {},
            "zero_optimization.offload_param",
            "at least 3, and it is 2",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "disk"}}},
            {},
            "zero_optimization.offload_optimizer.device",
            "'disk' is no device",
        ),
        (
            {"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "nvme"}}},
            {},
            "zero_optimization.offload_optimizer.device",
            "'nvme' is not served",
        ),
        ({"zero_optimization": {"stage": 1}}, {"optimizer": "adafactor"}, "deepspeed_config", "not proven"),
    ],
)
def test_contradictions_name_key_and_value(content, settings, key, message):
    problems = found(content, **settings)
    assert list(problems) == [key or next(iter(content))]
    assert message in next(iter(problems.values()))


def test_adapters_and_other_shapes_are_refused():
    shared = found({"zero_optimization": {"stage": 2}}, model_type="lora")
    assert "model_type lora trains few" in shared["deepspeed_config"]
    assert "not list" in found([])[None]


@pytest.mark.parametrize(("stage", "frees"), [(1, False), (2, False), (3, True)])
def test_what_it_shares_out_is_shared_out_and_said(write_config, stage, frees):
    given = {"deepspeed_config": {"zero_optimization": {"stage": stage}}, "model_type": "full", "num_processes": 2}
    loaded = load_config(write_config(**given))
    assert (loaded.config.shards, loaded.config.frees_blocks) == (True, frees)
    warning = f"deepspeed_config: PyTorch's FSDP2 does what stage {stage} of ZeRO does; DeepSpeed is not used"
    assert warning in loaded.warnings
    assert "deepspeed_config" not in loaded.unread
    alone = load_config(write_config(**{**given, "num_processes": 1}))
    assert alone.unread["deepspeed_config"] == "num_processes is 1, and one process holds the whole model"


def test_stage_0_shares_nothing_out(write_config):
    assert not load_config(write_config(deepspeed_config={}, num_processes=2)).config.shards
    assert not load_config(write_config(deepspeed_config={"bf16": {"enabled": True}})).config.shards


def problems_of(write_config, value, **settings):
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(deepspeed_config=value, **settings))
    return {problem.key: problem for problem in caught.value.problems}


@pytest.mark.parametrize("kind", ["object", "text", "file"])
def test_it_is_read_from_each_place_and_never_ignored(write_config, project, kind):
    content = {"zero_optimization": {"stage": 7}}
    Path("ds.json").write_text(json.dumps(content))
    problems = problems_of(write_config, {"object": content, "text": json.dumps(content), "file": "ds.json"}[kind])
    assert "7 is no ZeRO stage" in problems["zero_optimization.stage"].message
    assert problems["zero_optimization.stage"].file.endswith("ds.json" if kind == "file" else "config.json")


def test_what_cannot_be_read_is_named(write_config):
    with pytest.raises(ConfigError, match="is no JSON"):
        load_config(write_config(deepspeed_config="{stage: 2"))
    with pytest.raises(ConfigError, match="no such file"):
        load_config(write_config(deepspeed_config="missing.json"))


@pytest.mark.parametrize("value", ["none", "false", False, ""])
def test_words_for_none_ask_for_nothing(write_config, value):
    assert load_config(write_config(deepspeed_config=value)).config.memory.deepspeed_config is None
