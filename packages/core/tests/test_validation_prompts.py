"""Which prompts pictures are made of, and what they are called."""

import json
import re

import pytest

from tuner.config.loading import load_config
from tuner.config.prompts import LibraryPrompt, builtin_prompts, merge_libraries, parse_library, safe_name, unused_name
from tuner.errors import ConfigError
from tuner.validation.pictures import picture_prompts

SAMPLE = {
    **{f"{style}_<token>": f"a {style} portrait of <token>" for style in ("anime", "chef", "just", "cinematic",
       "elegant", "adventurous", "mysterious", "vintage", "artistic", "futuristic")},
    **{who: f"a portrait of a {who}" for who in ("woman", "man", "boy", "girl", "family")},
}  # fmt: skip


@pytest.fixture
def prompts_of(project, write_config):
    """Write a library and return the prompts of a configuration's pictures, and the configuration."""

    def load(library=None, **settings):
        if library is not None:
            (project / "prompts.json").write_text(json.dumps(library))
        loaded = load_config(write_config(validation_step_interval=2, **settings))
        return picture_prompts(loaded.config), loaded

    return load


def test_the_built_in_set_is_varied_and_its_nicknames_are_file_names():
    library = builtin_prompts()
    assert len(library) >= 50
    assert len({entry.nickname for entry in library}) == len({entry.prompt for entry in library}) == len(library)
    assert all(re.fullmatch(r"[a-z0-9_]{1,20}", entry.nickname) for entry in library)
    assert not any("<" in entry.prompt for entry in library)


def test_true_adds_the_built_in_set_and_false_none(prompts_of):
    built_in = [entry.prompt for entry in builtin_prompts()]
    prompts, loaded = prompts_of(validation_prompt_library=True, validation_prompt="a thing")
    assert [prompt.prompt for prompt in prompts] == [*built_in, "a thing", ""]
    assert "validation_prompt_library" not in loaded.unread
    prompts, _ = prompts_of(validation_prompt_library=True)
    assert [prompt.prompt for prompt in prompts] == [*built_in, ""]
    prompts, _ = prompts_of(validation_prompt_library=False, validation_prompt="a thing")
    assert [prompt.prompt for prompt in prompts] == ["a thing", ""]


def test_a_path_is_a_library_of_the_user_and_joins_the_other_one(project, prompts_of):
    (project / "more.json").write_text('{"a": "a cat", "b": "a boat", "c": "a car"}')
    prompts, loaded = prompts_of(
        {"a": "a cat", "b": "a barn"}, validation_prompt_library="prompts.json", user_prompt_library="more.json"
    )
    named = {prompt.nickname: prompt.prompt for prompt in prompts}
    assert named == {"a": "a cat", "b": "a barn", "b_2": "a boat", "c": "a car", "unconditional": ""}
    assert loaded.config.prompts == {name: prompt for name, prompt in named.items() if prompt}


def test_the_sample_of_fifteen(prompts_of):
    prompts, loaded = prompts_of(SAMPLE, user_prompt_library="prompts.json", validation_prompt="a portrait of Ada")
    assert len(prompts) == 15 + 2
    assert prompts[0].nickname == "anime__token_"
    assert [prompt.nickname for prompt in prompts[-2:]] == ["validation", "unconditional"]
    warning = next(line for line in loaded.warnings if "<token>" in line)
    assert "10 prompts still hold <token> (first: 'adventurous_<token>')" in warning


@pytest.mark.parametrize("character", '<>:"/\\|?*\n\0\x7f')
def test_nicknames_lose_what_file_systems_refuse(character):
    assert safe_name(f"a{character}b") == "a_b"


def test_nicknames_are_short_in_bytes_and_never_empty():
    assert safe_name("x" * 300) == "x" * 80
    assert safe_name("ж" * 300) == "ж" * 40
    assert len(safe_name("a" + "🦊" * 90).encode()) <= 80
    assert [safe_name(name) for name in ("", " ", "..", " . ")] == ["_"] * 4
    assert safe_name("../../etc/passwd") == "_.._etc_passwd"


def test_nicknames_that_become_equal_are_numbered(prompts_of):
    library = {
        "a/b": "one",
        "a:b": "two",
        "A?B": "three",
        "a_b_2": "four",
        "validation": "five",
        "Unconditional": "six",
    }
    prompts, _ = prompts_of(library, user_prompt_library="prompts.json", validation_prompt="seven")
    assert [(prompt.nickname, prompt.prompt) for prompt in prompts] == [
        ("a_b", "one"), ("a_b_2", "two"), ("A_B_3", "three"), ("a_b_2_2", "four"), ("validation_2", "five"),
        ("Unconditional_2", "six"), ("validation", "seven"), ("unconditional", ""),
    ]  # fmt: skip


def test_the_unconditional_picture_can_be_left_out(prompts_of):
    for left_out in (False, True):
        prompts, _ = prompts_of(validation_prompt="a cat", validation_disable_unconditional=left_out)
        assert [prompt.nickname for prompt in prompts] == ["validation", *["unconditional"] * (not left_out)]


@pytest.mark.parametrize(
    ("library", "complaint"),
    [
        (["a cat"], "must be an object of nickname -> prompt, not list"),
        ({"a": 3}, "'a' must be a prompt, or an object"),
        ({"a": {"text": "a cat"}}, "'a' must be a prompt, or an object"),
        ({"a": {"prompt": "a cat", "strength": 1}}, "'a' has strength; an entry holds prompt and adapter_strength"),
        ({"a": {"prompt": "a cat", "adapter_strength": "half"}}, "adapter_strength of 'a' must be a number"),
        ({"a": {"prompt": "a cat", "adapter_strength": True}}, "adapter_strength of 'a' must be a number"),
    ],
)
def test_what_is_no_library_is_refused(prompts_of, library, complaint):
    with pytest.raises(ConfigError) as caught:
        prompts_of(library, user_prompt_library="prompts.json")
    (problem,) = caught.value.problems
    assert problem.message.startswith(complaint)
    assert (problem.file.endswith("prompts.json"), problem.key) == (True, "user_prompt_library")


def test_a_library_without_prompts_is_reported(prompts_of):
    prompts, loaded = prompts_of({}, user_prompt_library="prompts.json")
    assert prompts == []
    assert any(line.endswith("prompts.json: holds no prompt") for line in loaded.warnings)


def test_half_a_letter_is_refused(project, write_config):
    (project / "prompts.json").write_text(r'{"fox": "a fox \ud83e", "whole": "\ud83e\udd8a"}')
    with pytest.raises(ConfigError, match=r"prompts.json: holds '\\ud83e', which is half of a letter") as caught:
        load_config(write_config(user_prompt_library="prompts.json"))
    assert len(caught.value.problems) == 1
    (project / "prompts.json").write_text(r'{"whole \ud83e\udd8a": "\ud83e\udd8a"}')
    assert load_config(write_config(user_prompt_library="prompts.json")).config.prompts == {
        "whole \U0001f98a": "\U0001f98a"
    }


def test_a_library_that_is_missing_is_refused(prompts_of):
    for key in ("user_prompt_library", "validation_prompt_library"):
        with pytest.raises(ConfigError, match=f"{key}: no such file; looked for"):
            prompts_of(**{key: "missing.json"})


def test_entries_may_hold_a_strength():
    library = parse_library({"a": "a cat", "b": {"prompt": "a dog"}, "c": {"prompt": "an owl", "adapter_strength": 0}})
    assert library == [LibraryPrompt("a", "a cat"), LibraryPrompt("b", "a dog"), LibraryPrompt("c", "an owl", 0.0)]
    merged = merge_libraries([library, [LibraryPrompt("c", "an owl", 1.0)]])
    assert merged[2:] == [LibraryPrompt("c", "an owl", 0.0), LibraryPrompt("c_2", "an owl", 1.0)]
    assert unused_name("B", ["a", "b", "b_2"]) == "B_3"


def test_settings_of_pictures_without_a_prompt_are_reported(prompts_of):
    settings = {"validation_guidance": 3.0, "validation_seed": 1, "disable_benchmark": True}
    prompts, loaded = prompts_of(**settings, validation_num_inference_steps=30)
    assert prompts == []
    assert loaded.unread.keys() >= settings.keys()
    assert "validation_num_inference_steps" not in loaded.unread  # the default asks for nothing
    assert not prompts_of(validation_prompt_library=True, **settings)[1].unread.keys() & settings.keys()


def test_what_only_guidance_reads_is_reported_without_it(prompts_of):
    settings = {"validation_prompt": "a cat", "validation_guidance_rescale": 0.7, "validation_negative_prompt": "dull"}
    assert not prompts_of(**settings, validation_guidance=1.5)[1].unread
    unread = prompts_of(**settings, validation_guidance=1)[1].unread
    reason = "validation_guidance is 1, which is no guidance"
    assert unread == {"validation_guidance_rescale": reason, "validation_negative_prompt": reason}


def test_strengths_are_the_prompts_own_or_that_of_all(prompts_of):
    library = {"own": {"prompt": "a cat", "adapter_strength": 0.25}, "usual": "a dog"}
    settings = {
        "user_prompt_library": "prompts.json",
        "validation_prompt": "an owl",
        "validation_lycoris_strength": 0.5,
    }
    prompts, loaded = prompts_of(library, **settings)
    assert [prompt.strength for prompt in prompts] == [0.25, 0.5, 0.5, 0.5]
    assert not loaded.unread
    prompts, loaded = prompts_of(library, **settings, model_type="full")
    assert [prompt.strength for prompt in prompts] == [1.0] * 4
    assert loaded.unread["validation_lycoris_strength"] == "model_type is 'full'"
    assert any("adapter_strength of 1 prompts has no effect" in line for line in loaded.warnings)
