"""Settings that share a model out over processes: where they come from, and what they exclude."""

from __future__ import annotations

import pytest

from tuner.config.loading import load_config
from tuner.config.sharding import ShardingConfig
from tuner.errors import ConfigError

SHARED = {"fsdp_enable": True, "model_type": "full", "num_processes": 2}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_FSDP", "FSDP_RESHARD_AFTER_FORWARD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def loaded(write_config):
    return lambda **settings: load_config(write_config(**settings))


@pytest.fixture
def problems(write_config):
    def collect(**settings):
        with pytest.raises(ConfigError) as caught:
            load_config(write_config(**settings))
        return [str(problem) for problem in caught.value.problems]

    return collect


@pytest.fixture
def file(project):
    """Write a configuration of accelerate's that shares models out, and return its name."""

    def write(**settings):
        lines = ["distributed_type: FSDP", "num_processes: 2", "fsdp_config:"]
        lines += [f"  {key}: {value}" for key, value in settings.items()]
        (project / "accelerate.yaml").write_text("\n".join(lines))
        return "accelerate.yaml"

    return write


def test_it_is_off_unless_asked_for(loaded):
    assert not loaded().config.sharding.fsdp_enable


@pytest.mark.parametrize("frees", [True, False])
def test_a_file_of_accelerates_turns_it_on(loaded, file, frees):
    name = file(fsdp_version=2, fsdp_reshard_after_forward=frees, fsdp_sync_module_states=True)
    found = loaded(accelerate_config=name, model_type="full")
    assert found.config.sharding == ShardingConfig(fsdp_enable=True, fsdp_reshard_after_forward=frees)
    assert found.config.launch.num_processes == 2
    assert any("nothing reads fsdp_sync_module_states" in warning for warning in found.warnings)
    assert not loaded(accelerate_config=name, model_type="full", fsdp_enable=False).config.sharding.fsdp_enable


@pytest.mark.parametrize(
    ("said", "frees"), [("true", True), ("false", False), ("FULL_SHARD", True), ("SHARD_GRAD_OP", False)]
)
def test_a_launcher_turns_it_on(loaded, monkeypatch, said, frees):
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_USE_FSDP": "true"}
    for name, value in {**variables, "FSDP_RESHARD_AFTER_FORWARD": said}.items():
        monkeypatch.setenv(name, value)
    sharding = loaded(model_type="full").config.sharding
    assert (sharding.fsdp_enable, sharding.fsdp_reshard_after_forward) == (True, frees)


def test_what_other_programs_need_to_be_told_has_no_effect_and_says_so(loaded):
    unread = loaded(
        **SHARED,
        fsdp_version=1,
        fsdp_state_dict_type="SHARDED_STATE_DICT",
        fsdp_auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        fsdp_transformer_layer_cls_to_wrap="Block",
        fsdp_cpu_ram_efficient_loading=True,
        fsdp_activation_checkpointing=True,
    ).unread
    assert {key for key in unread if key.startswith("fsdp")} == {
        "fsdp_version", "fsdp_state_dict_type", "fsdp_auto_wrap_policy", "fsdp_transformer_layer_cls_to_wrap",
        "fsdp_cpu_ram_efficient_loading", "fsdp_activation_checkpointing",
    }  # fmt: skip
    assert unread["fsdp_activation_checkpointing"] == "gradient_checkpointing decides on this"


def test_one_process_holds_the_whole_model_and_says_so(loaded):
    unread = loaded(model_type="full", fsdp_enable=True).unread
    assert unread["fsdp_enable"] == "num_processes is 1, and one process holds the whole model"


def test_all_that_does_not_go_with_it_is_told_at_once(problems):
    found = problems(
        **{**SHARED, "model_type": "lora"},
        optimizer="prodigy",
        enable_group_offload=True,
        scheduled_sampling_max_step_offset=3,
        scheduled_sampling_probability=0.5,
        dynamo_backend="inductor",
        deepspeed_config='{"zero_optimization": {"stage": 2}}',
    )
    for part in (
        "it shares out weights that train, and model_type lora trains few",
        "prodigy is not proven to be right for weights that are shared out",
        "enable_group_offload moves blocks",
        "a rollout lets one process use the model more often",
        "compiling blocks that are shared out is not served",
        "fsdp_enable and deepspeed_config both share the model out",
    ):
        assert sum(part in problem for problem in found) == 1, (part, found)


def test_compiled_pictures_are_refused_like_compiled_steps(problems):
    pictures = {"validation_torch_compile": True, "validation_step_interval": 5, "validation_prompt": "a"}
    (problem,) = problems(**SHARED, **pictures)
    assert "turn validation_torch_compile off" in problem


def test_a_file_whose_settings_are_no_object_is_refused(problems, project):
    (project / "accelerate.yaml").write_text("distributed_type: FSDP\nfsdp_config: [1, 2]\n")
    (problem,) = problems(accelerate_config="accelerate.yaml", model_type="full")
    assert "accelerate.yaml: fsdp_config: must be an object, not list" in problem


def test_offloading_the_parts_is_refused(problems):
    (problem,) = problems(**SHARED, fsdp_cpu_offload=True)
    assert "keeps what it shares out on the devices" in problem


def test_an_optimizer_of_which_nothing_is_known_is_left_to_those_who_know(loaded, problems):
    (problem,) = problems(**SHARED, optimizer="torch.optim.SGD")
    assert "use adamw_bf16, optimi-adamw" in problem
    assert loaded(**SHARED, optimizer="torch.optim.SGD", i_know_what_i_am_doing=True).config.sharding.fsdp_enable
