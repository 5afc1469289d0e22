import json

import pytest

from tuner.config.loading import find_config, load_config
from tuner.config.validation import parse_sizes
from tuner.errors import ConfigError


def write(project, text="", **settings):
    minimal = {
        "model_family": "toyfamily.plugin",
        "model_type": "lora",
        "output_dir": "output",
        "optimizer": "optimi-adamw",
        "data_backend_config": "multidatabackend.json",
        "max_train_steps": 10,
    }
    path = project / "config.json"
    path.write_text(text or json.dumps({**minimal, **settings}))
    return path


def problems(project, overrides=None, **settings):
    with pytest.raises(ConfigError) as caught:
        load_config(write(project, **settings), overrides)
    return {problem.key: problem for problem in caught.value.problems}


def test_strings_are_coerced(project):
    loaded = load_config(write(project, max_train_steps="20", learning_rate="4e-5", gradient_checkpointing="false"))
    assert loaded.config.optimisation.max_train_steps == 20
    assert loaded.config.optimisation.learning_rate == 4e-5
    assert loaded.config.optimisation.gradient_checkpointing is False


def test_dashes_and_aliases_are_accepted(project):
    config = load_config(write(project, **{"--checkpointing_steps": 7, "validation_steps": 3})).config
    assert config.checkpoints.checkpoint_step_interval == 7
    assert config.validation.validation_step_interval == 3


def test_two_spellings_with_two_values_are_refused(project):
    found = problems(project, **{"--seed": 1, "seed": 2})
    assert "1 and 2" in found["seed"].message


def test_a_misspelt_key_is_refused_with_the_nearest_one(project):
    found = problems(project, learning_rte=1)
    assert found["learning_rte"].remedy == "did you mean learning_rate?"


def test_all_problems_come_at_once(project):
    found = problems(
        project, learning_rate="fast", train_batch_size=0, model_flavour="c", validation_resolution="1024y1024",
        num_train_epochs=2, toy_strength="x", lora_rank=0,
    )  # fmt: skip
    assert set(found) == {
        "learning_rate", "train_batch_size", "model_flavour", "validation_resolution", "toy_strength", "lora_rank",
        "max_train_steps",
    }  # fmt: skip
    assert "'fast'" in found["learning_rate"].message
    assert "one of: a, b" in found["model_flavour"].message
    assert "'1024y1024'" in found["validation_resolution"].message
    assert all(problem.file == str(project / "config.json") for problem in found.values())


def test_rules_over_several_settings_are_checked_beside_refused_ones(project):
    """Each topic holds a setting that is refused, and breaks a rule about the others."""
    (project / "multidatabackend.json").write_text('[{"id": "a", "instance_data_dir": "missing", "resolution": 512}]')
    (project / "hook.json").write_text('{"webhook_type": "raw"}')
    (project / "prompts.json").write_text('["a cat"]')
    found = problems(
        project, model_flavour="c", seed="x", num_processes=3, num_machines=2, dynamo_backend="fast",
        learning_rate="much", num_train_epochs=2, gradient_accumulation_steps=2, optimizer_release_gradients=True,
        validation_resolution="1024y1024", user_prompt_library="prompts.json", eval_timesteps=0, evaluation_type="clip",
        pretrained_evaluation_model_name_or_path="nowhere", hub_model_id="no/such/name", webhook_config="hook.json",
        resolution="large", flow_use_uniform_schedule=True, flow_use_beta_schedule=True, flow_sigmoid_scale="wide",
        enable_group_offload=True, enable_model_cpu_offload=True, vae_enable_slicing="perhaps",
    )  # fmt: skip
    refused = {
        "seed", "dynamo_backend", "learning_rate", "validation_resolution", "eval_timesteps", "hub_model_id",
        "resolution", "vae_enable_slicing",
    }  # fmt: skip
    rules = {
        "model_flavour", "num_processes", "num_machines", "max_train_steps", "optimizer_release_gradients",
        "user_prompt_library", "pretrained_evaluation_model_name_or_path", "callback_url", "a: instance_data_dir",
        "flow_use_beta_schedule", "enable_model_cpu_offload",
    }  # fmt: skip
    assert set(found) == refused | rules


def test_a_rule_is_not_applied_to_a_refused_setting(project):
    assert set(problems(project, max_train_steps="many", num_train_epochs=2)) == {"max_train_steps"}
    assert "is not accepted" in problems(project, max_train_steps="many", num_train_epochs=2)["max_train_steps"].message
    assert set(problems(project, model_type="lore", lora_type="lycoris", lycoris_config="absent.json")) == {
        "model_type"
    }
    assert set(problems(project, data_backend_config="", webhook_config="absent.json")) == {
        "data_backend_config", "webhook_config",
    }  # fmt: skip
    # A data set that takes over what was refused is not judged; one that has its own is.
    entries = [{"id": "a", "instance_data_dir": "pictures", "repeats": -1}]
    entries.append({**entries[0], "id": "b", "caption_strategy": "instanceprompt", "instance_prompt": "a cat"})
    (project / "multidatabackend.json").write_text(json.dumps(entries))
    assert set(problems(project, caption_strategy="none")) == {"caption_strategy", "entry 2 (b): repeats"}


@pytest.mark.parametrize(("steps", "epochs"), [(0, 0), (10, 1)])
def test_exactly_one_length_is_given(project, steps, epochs):
    found = problems(project, max_train_steps=steps, num_train_epochs=epochs)
    assert "exactly one" in found["max_train_steps"].message


def test_the_command_line_wins_and_is_named(project):
    loaded = load_config(write(project, seed=1), {"seed": "7"})
    assert loaded.config.model.seed == 7
    assert loaded.given["seed"].origin == "command line"
    assert problems(project, {"seed": "x"})["seed"].file == "command line"


def test_a_family_changes_defaults_and_adds_settings(project):
    loaded = load_config(write(project, toy_strength="0.5"))
    assert loaded.config.optimisation.learning_rate == 1e-5
    assert loaded.config.family.toy_strength == 0.5


def test_a_flavour_changes_defaults_too(project):
    assert load_config(write(project, model_flavour="b")).config.family.toy_strength == 3.0
    assert load_config(write(project, model_flavour="b", toy_strength=2)).config.family.toy_strength == 2.0
    assert load_config(write(project)).config.family.toy_strength == 1.0


def test_an_unknown_family_is_named_with_those_installed(project):
    assert "not installed" in problems(project, model_family="nosuch")["model_family"].message


def test_settings_without_effect_are_in_the_receipt(project):
    given = {"ema_decay": 0.9, "lora_rank": 4, "validation_guidance": 2.0}
    shifts = {"flow_schedule_auto_shift": True, "flow_schedule_shift": 2.0}
    loaded = load_config(write(project, **given, **shifts))
    assert loaded.unread["ema_decay"] == "use_ema is False"
    assert loaded.unread["flow_schedule_shift"] == "flow_schedule_auto_shift is True"
    assert "validation_prompt" in loaded.unread["validation_guidance"]
    assert "lora_rank" not in loaded.unread


def test_settings_that_mean_nothing_to_a_family_are_replaced_and_reported(project):
    loaded = load_config(write(project, flow_sigmoid_scale=9.0, use_ema=True, ema_update_interval=7))
    assert (loaded.config.flow.flow_sigmoid_scale, loaded.config.ema.ema_update_interval) == (2.0, 1)
    assert loaded.unread == {"flow_sigmoid_scale": "Toy draws its own", "ema_update_interval": "Toy has none"}


def test_comments_and_trailing_commas_are_forgiven_with_their_line(project):
    text = """{
      // the family
      "model_family": "toyfamily.plugin", "model_type": "lora", "output_dir": "a//b, }",
      "optimizer": "optimi-adamw", # here
      "data_backend_config": "multidatabackend.json",
      "max_train_steps": 10,
    }"""
    loaded = load_config(write(project, text))
    assert str(loaded.config.model.output_dir) == "a/b, }"
    lines = [line for line in loaded.warnings if "config.json" in line]
    assert [line.split(": ")[1] for line in lines] == ["line 2", "line 4", "line 6"]


@pytest.mark.parametrize("text", ['{"a": }', "{'a': 1}", "[1, 2]", '{"seed": 1, "seed": 2}', ""])
def test_other_syntax_is_refused(project, text):
    (project / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_config(project / "config.json")


def test_toml_and_yaml(project):
    write(project)
    values = json.loads((project / "config.json").read_text())
    toml, yaml = project / "config.toml", project / "config.yaml"
    toml.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    yaml.write_text("\n".join(f"{key}: {value}" for key, value in values.items()) + "\nmixed_precision: no\n")
    assert load_config(toml).config.optimisation.max_train_steps == 10
    assert load_config(yaml).config.precision.mixed_precision == "no"


def test_discovery(project):
    with pytest.raises(ConfigError, match=r"looked for config\.json"):
        find_config(None)
    (project / "config").mkdir()
    (project / "config" / "config.json").write_text("{}")
    assert find_config(None).as_posix() == "config/config.json"
    (project / "config.toml").write_text("")
    assert find_config(None).as_posix() == "config.toml"
    assert find_config("config").as_posix() == "config/config.json"


def dataset_problems(project, *entries):
    (project / "multidatabackend.json").write_text(json.dumps(entries))
    with pytest.raises(ConfigError) as caught:
        load_config(write(project))
    return str(caught.value)


def test_data_set_problems_name_entry_and_key(project):
    text = dataset_problems(
        project,
        {"id": "a", "instance_data_dir": "pictures", "repeats": -1},
        {"id": "a", "instance_data_dir": "missing"},
        {"id": "b", "instance_data_dir": "pictures", "caption_strategy": "instanceprompt"},
        {"id": "c", "instance_data_dir": "pictures", "maximum_image_size": 512},
        {"id": "d", "instance_data_dir": "pictures", "crop": True, "crop_aspect": "closest"},
        {"id": "e", "instance_data_dir": "pictures", "resolutoin": 512},
    )
    for expected in (
        "entry 1 (a): repeats",
        "the id 'a' is given to 2 entries",
        "missing is no folder",
        "needs an instance_prompt",
        "needs a target_downsample_size",
        "needs crop_aspect_buckets",
        "did you mean resolution?",
    ):
        assert expected in text


def test_text_caches_and_shared_folders(project):
    text = {"dataset_type": "text_embeds", "default": True}
    shared = {"instance_data_dir": "pictures", "cache_dir_vae": "cache/vae"}
    found = dataset_problems(
        project, {"id": "a", **shared}, {"id": "b", **shared}, {"id": "t", **text}, {"id": "u", **text}
    )
    assert "t, u are all the default" in found
    assert "cache/vae is the cache of 2 entries" in found


def test_data_sets_take_over_global_settings_and_may_be_disabled(project):
    entries = [
        {"id": "a", "instance_data_dir": "pictures"},
        {"id": "b", "instance_data_dir": "pictures", "resolution": 1.0, "resolution_type": "area"},
        {"id": "c", "instance_data_dir": "missing", "disabled": True},
    ]
    (project / "multidatabackend.json").write_text(json.dumps(entries))
    first, second = load_config(write(project, resolution=512, resolution_type="pixel_edge")).config.datasets
    assert (first.resolution, first.resolution_type) == (512, "pixel")
    assert (second.resolution, second.resolution_type) == (1.0, "area")


def test_lycoris_files_are_checked(project):
    lokr = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 1}
    for left_out in lokr:
        content = {key: value for key, value in lokr.items() if key != left_out}
        (project / "lycoris_config.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=left_out):
            load_config(write(project, lora_type="lycoris", lycoris_config="config/lycoris_config.json"))
    (project / "lycoris_config.json").write_text(json.dumps(lokr)[:-1] + ",}")
    loaded = load_config(write(project, lora_type="lycoris", lycoris_config="config/lycoris_config.json"))
    assert loaded.config.lycoris.algo == "lokr"
    assert any("trailing comma" in line for line in loaded.warnings)


def test_adamw_bf16_needs_bf16(project):
    assert "bf16" in problems(project, optimizer="adamw_bf16", mixed_precision="no")["optimizer"].message


def test_prompt_libraries_warn_about_placeholders(project):
    (project / "prompts.json").write_text('{"a": "a photo of <token>", "b": "a cat"}')
    loaded = load_config(write(project, user_prompt_library="prompts.json"))
    assert loaded.config.prompts["b"] == "a cat"
    assert any("<token>" in line for line in loaded.warnings)
    assert "user_prompt_library" in problems(project, user_prompt_library="missing.json")


@pytest.mark.parametrize(
    ("text", "sizes"), [("256", [(256, 256)]), ("1024x768, 512", [(1024, 768), (512, 512)]), ("64X32", [(64, 32)])]
)
def test_picture_sizes(text, sizes):
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "1024y1024", "0", "10x", "x10", "-5", "5x0", "1.5", "512,"])
def test_bad_picture_sizes(text):
    with pytest.raises(ValueError, match="picture size"):
        parse_sizes(text)


def test_no_setting_is_dead():
    """Every setting is read somewhere outside the configuration package, or says why nothing reads it."""
    import re
    from pathlib import Path

    import tuner
    from tuner.config.datasets import DatasetConfig, TableConfig
    from tuner.config.keys import all_settings
    from tuner.config.lycoris import LycorisConfig, LycorisPreset
    from tuner.config.settings import field_extra

    root = Path(tuner.__file__).parent
    code = "\n".join(
        path.read_text() for path in root.rglob("*.py") if "config/" not in path.relative_to(root).as_posix()
    )
    files = ("loading", "references", "dataset_file", "flow", "checkpoints", "validation", "scheduled_sampling")
    files += ("optimisation", "launch", "datasets", "run", "previews", "sharding")
    code += "".join((root / "config" / f"{name}.py").read_text() for name in files)
    fields = {key: field for _, key, field in all_settings()} | DatasetConfig.model_fields | TableConfig.model_fields
    fields |= LycorisConfig.model_fields | LycorisPreset.model_fields
    dead = {name for name in fields if not re.search(rf"\.{name}\b|\"{name}\"", code)}
    assert dead == {name for name in dead if field_extra(fields[name], "unread", None)}
