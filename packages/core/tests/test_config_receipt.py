"""The settings receipt, the story of one setting, and placeholders."""

import json

import pytest

from tuner.config.explain import explain
from tuner.config.loading import load_config
from tuner.config.receipt import settings_receipt
from tuner.config.settings import HIDDEN
from tuner.errors import ConfigError


def receipt(loaded):
    rows = settings_receipt(loaded.config, loaded.given, loaded.family.facts, loaded.unread, loaded.secrets)
    return {row.key: row for row in rows}


def test_every_setting_has_a_row_with_its_origin(project, write_config):
    rows = receipt(load_config(write_config(seed=7), {"train_batch_size": "2"}))
    assert (rows["seed"].value, rows["seed"].origin) == (7, str(project / "config.json"))
    assert (rows["train_batch_size"].value, rows["train_batch_size"].origin) == (2, "command line")
    assert (rows["learning_rate"].value, rows["learning_rate"].origin) == (1e-5, "family")
    assert (rows["lora_rank"].value, rows["lora_rank"].origin) == (16, "default")
    assert rows["pictures: instance_data_dir"].origin == "data set file"


def test_values_to_come_are_refused_as_such(write_config):
    with pytest.raises(ConfigError, match=r"'tvm' is known, but not served yet: input should be 'no'"):
        load_config(write_config(dynamo_backend="tvm"))
    with pytest.raises(ConfigError, match="'fp7' is not accepted"):
        load_config(write_config(mixed_precision="fp7"))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("mixed_precision", "FP8", "computes in 8 bits, which needs CUDA"),
        ("base_model_precision", "fp8-native", "use fp8-torchao"),
    ],
)
def test_formats_of_other_trainers_are_refused_with_the_reason(write_config, key, value, reason):
    with pytest.raises(ConfigError, match=f"(?s){key}.*{value} .*{reason}"):
        load_config(write_config(**{key: value}))


def test_reflexflow_is_reported(write_config):
    settings = {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 0.5}
    loaded = load_config(write_config(**settings, scheduled_sampling_reflexflow=True))
    assert "with the loss of any other sample" in loaded.unread["scheduled_sampling_reflexflow"]


def test_a_key_that_was_renamed_says_so(write_config):
    with pytest.raises(ConfigError, match=r"disable_vae_cache: is no longer a setting\n +-> write vae_cache_disable"):
        load_config(write_config(disable_vae_cache=True))


def test_a_setting_of_another_installed_family_is_passed_over_with_a_word(project, write_config):
    (project / "other.py").write_text(
        (project / "toyfamily" / "plugin.py").read_text().replace("toy_strength", "other_strength")
        .replace('title="Toy"', 'title="Other"')
    )  # fmt: skip
    info = project / "tuner_model_other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tuner-model-other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tuner.families]\nother = other\n")
    loaded = load_config(write_config(other_strength=2.0))
    assert loaded.unread["other_strength"] == "it is a setting of Other"
    assert receipt(loaded)["other_strength"].unread == "it is a setting of Other"
    with pytest.raises(ConfigError, match="other_strenght: no such setting"):
        load_config(write_config(other_strenght=2.0))


def test_a_story_lists_every_layer(project, write_config):
    loaded = load_config(write_config(learning_rate="3e-5"), {"learning_rate": "4e-5"})
    story = explain(loaded, "--learning_rate").splitlines()
    assert story[0] == "learning_rate"
    assert story[2:] == [
        "  type:     number",
        "  default:  4e-07",
        "  given:    1e-05 by family",
        f"  given:    '3e-5' by {project / 'config.json'}",
        "  given:    '4e-5' by command line",
        "  in force: 4e-05 from command line",
        "  read:     yes",
    ]


def test_a_story_says_why_nothing_reads_a_setting(write_config):
    loaded = load_config(write_config(ema_decay=0.9))
    assert "  read:     no: use_ema is False" in explain(loaded, "ema_decay")
    assert "  pictures: 0 (default)" in explain(loaded, "repeats")
    with pytest.raises(ConfigError, match="did you mean learning_rate"):
        explain(loaded, "learning_rat")


def test_placeholders_are_replaced_and_their_values_hidden(project, write_config, monkeypatch):
    monkeypatch.setenv("TUNER_TEST_KEY", "s3cr3t-value")
    entry = {
        "id": "cloud",
        "type": "aws",
        "aws_bucket_name": "bucket-of-{model_family}",
        "aws_secret_access_key": "{env:TUNER_TEST_KEY}",
        "cache_dir_vae": "{output_dir}/vae/{id}",
        "instance_prompt": "a {thing}",
        "caption_strategy": "instanceprompt",
    }
    (project / "multidatabackend.json").write_text(json.dumps([entry]))
    hook = {"webhook_type": "raw", "callback_url": "http://localhost/{env:TUNER_TEST_KEY}"}
    loaded = load_config(write_config(validation_prompt="by {env:TUNER_TEST_KEY}", webhook_config=hook))
    dataset = loaded.config.datasets[0]
    assert dataset.aws_secret_access_key == "s3cr3t-value"
    assert dataset.aws_bucket_name == "bucket-of-toyfamily.plugin"
    assert str(dataset.cache_dir_vae) == "output/vae/cloud"
    assert dataset.instance_prompt == "a {thing}"
    rows = receipt(loaded)
    assert rows["validation_prompt"].value == f"by {HIDDEN}"
    assert rows["webhook_config"].value == HIDDEN
    assert rows["cloud: aws_secret_access_key"].value == HIDDEN
    told = "".join(explain(loaded, key) for key in ("validation_prompt", "webhook_config", "aws_secret_access_key"))
    assert "s3cr3t" not in told + repr(loaded.secrets and rows)


def test_a_variable_that_is_not_set_is_named(write_config, monkeypatch):
    monkeypatch.delenv("TUNER_NO_SUCH", raising=False)
    with pytest.raises(ConfigError, match=r"output_dir: \{env:TUNER_NO_SUCH\} stands for the environment variable"):
        load_config(write_config(output_dir="{env:TUNER_NO_SUCH}/x"))


def test_settings_that_exclude_each_other(write_config):
    with pytest.raises(ConfigError, match="exclude each other"):
        load_config(write_config(enable_group_offload=True, enable_model_cpu_offload=True))
    with pytest.raises(ConfigError, match="flow_use_uniform_schedule and flow_cubic_schedule_weights exclude"):
        load_config(write_config(flow_use_uniform_schedule=True, flow_cubic_schedule_weights=[0, 1]))


def test_a_prompt_library_may_be_given_under_its_other_name(project, write_config):
    (project / "prompts.json").write_text('{"a": "a cat"}')
    assert load_config(write_config(validation_prompt_library="prompts.json")).config.prompts == {"a": "a cat"}
    assert load_config(write_config(validation_prompt_library="false")).config.prompts == {}
    with pytest.raises(ConfigError, match="validation_prompt_library: no such file"):
        load_config(write_config(validation_prompt_library="missing.json"))


def test_errors_show_no_secret_either(project, write_config, monkeypatch):
    monkeypatch.setenv("TUNER_TEST_KEY", "s3cr3t-value")
    entry = {"id": "cloud", "type": "aws", "aws_bucket_name": "b", "aws_secret_access_key": 12345678}
    (project / "multidatabackend.json").write_text(json.dumps([entry]))
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(learning_rate="{env:TUNER_TEST_KEY}"))
    text = str(caught.value)
    assert f"learning_rate: '{HIDDEN}' is not accepted" in text
    assert f"aws_secret_access_key: {HIDDEN} is not accepted" in text
    assert "s3cr3t" not in text
    assert "12345678" not in text
