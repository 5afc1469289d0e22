"""Names of repositories, and the setting that gives one."""

import pytest
from huggingface_hub.utils import validate_repo_id

from tuner.config.loading import load_config
from tuner.config.publishing import name_problem, safe_repository_name
from tuner.errors import ConfigError
from tuner.publishing.access import repository_name


@pytest.mark.parametrize(
    "name", ["a", "owner/name", "Some-One/my_lora.v2", "_x_/y", "x" * 96, f"{'o' * 96}/{'n' * 96}"]
)
def test_names_that_the_hub_takes(name):
    assert name_problem(name) is None
    validate_repo_id(name)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("https://huggingface.co/owner/name", "neither owner/name nor a name alone"),
        ("a/b/c", "neither owner/name nor a name alone"),
        ("", "must consist of letters"),
        ("owner/", "must consist of letters"),
        ("my lora", "must consist of letters"),
        ("owner/nämé", "must consist of letters"),
        ("-name", "must consist of letters"),
        ("owner/name.", "must consist of letters"),
        ("../name", "must consist of letters"),
        ("owner/a--b", "'--' or '..'"),
        ("owner/a..b", "'--' or '..'"),
        ("owner/name.git", "ends in .git"),
        ("x" * 97, "more than 96 characters"),
    ],
)
def test_names_that_it_does_not_take(name, rule):
    assert rule in name_problem(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sana-lora-my cat", "sana-lora-my-cat"),
        ("toyfamily.plugin-full-out", "toyfamily.plugin-full-out"),
        ("a--b..c-.-d", "a-b-c-d"),
        ("ünder/über\\x", "nder-ber-x"),
        ("..", "model"),
        ("repo.git.git", "repo"),
        ("y" * 200, "y" * 96),
        ("y" * 95 + "-z", "y" * 95),
    ],
)
def test_any_text_becomes_a_name(text, name):
    assert safe_repository_name(text) == name
    validate_repo_id(name)


def test_the_repository_of_a_run(write_config):
    def named(**settings):
        return repository_name(load_config(write_config(**settings)).config)

    assert named(output_dir="runs/a cat") == "toyfamily.plugin-lora-a-cat"
    assert named(model_type="full", learning_rate=1e-5) == "toyfamily.plugin-full-output"
    assert named(push_to_hub=True, hub_model_id="owner/mine") == "owner/mine"


def test_a_wrong_name_is_refused_with_the_key(write_config):
    with pytest.raises(ConfigError, match=r"hub_model_id: .*'a--b' holds '--' or '..', which the hub does not allow"):
        load_config(write_config(push_to_hub=True, hub_model_id="a--b"))


def test_what_has_no_effect_without_uploads_is_reported(write_config):
    loaded = load_config(write_config(push_checkpoints_to_hub=True, hub_model_id="owner/mine"))
    assert loaded.unread["push_checkpoints_to_hub"] == loaded.unread["hub_model_id"] == "push_to_hub is False"
    assert not load_config(write_config(push_to_hub=True, hub_model_id="owner/mine")).unread
