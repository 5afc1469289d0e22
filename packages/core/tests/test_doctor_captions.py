"""Findings about captions of small real folders."""

import os
import shutil

import pytest
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data.build import build_plan
from tuner.data.doctor.captions import equal_captions, file_names, placeholders, says_nothing
from tuner.data.doctor.finding import Finding
from tuner.data.doctor.tokens import count_tokens, long_captions, long_prompts, prompt_limits
from tuner.family.tokenizers import clip_tokenizer, t5_tokenizer
from tuner.testing.minimal import minimal_facts
from tuner.types import NoOptions, PromptLimit


@pytest.fixture
def planned(tmp_path, index):
    """Write pictures with the captions given, by name; return their data set and its plan."""

    def plan(captions, **settings):
        folder = tmp_path / "pictures"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in captions.items():
            Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(text)
        fields = {"id": "set", "instance_data_dir": folder, "resolution": 64, "caption_strategy": "textfile"}
        dataset = DatasetConfig(**(fields | settings))
        made = build_plan(
            [dataset], batch_size=1, accumulation=1, alignment=8, aspect_rounding=2, keep_small_buckets=True,
            seed=1, index=index,
        )  # fmt: skip
        return dataset, made

    return plan


def numbered(count, text):
    return {f"picture_{number:02}": text for number in range(count)}


def test_equal_captions(planned):
    captions = numbered(6, "a cat") | {f"other_{number}": f"a dog {number}" for number in range(4)}
    dataset, plan = planned(captions)
    remedy = (
        "describe what differs between the pictures; where one caption is meant, use caption_strategy instanceprompt"
    )
    expected = Finding("warning", "equal captions", "set", "6 of 10 images have the same caption", remedy, ("'a cat'",))
    assert list(equal_captions(plan, [dataset])) == [expected]


@pytest.mark.parametrize(
    ("captions", "settings"),
    [
        (numbered(9, "a cat"), {}),
        (numbered(5, "a cat") | {f"other_{number}": f"a dog {number}" for number in range(5)}, {}),
        (numbered(10, "a cat"), {"caption_strategy": "instanceprompt", "instance_prompt": "a cat"}),
    ],
    ids=["few pictures", "half of them", "meant"],
)
def test_captions_that_may_be_equal(planned, captions, settings):
    dataset, plan = planned(captions, **settings)
    assert list(equal_captions(plan, [dataset])) == []


def test_file_names_of_cameras(planned):
    names = dict.fromkeys(("IMG_1234", "DSC0001", "000017", "a red boat", "boat 2"), "a boat")
    dataset, plan = planned(names, caption_strategy="filename")
    assert list(file_names(plan, [dataset])) == [
        Finding(
            "warning",
            "file names",
            "set",
            "3 of 5 captions are file names that describe nothing",
            "rename the files after what they show, or choose another caption_strategy, such as textfile",
            ("set/000017.png", "set/DSC0001.png", "set/IMG_1234.png"),
        )
    ]
    dataset, plan = planned(names)
    assert list(file_names(plan, [dataset])) == []


@pytest.mark.parametrize(
    "stem",
    ["_MG_0001", "P1010001", "Screenshot 2024-05-05 at 10.11.12", "IMG-20240101-WA0001", "photo (3)",
     "deadbeefdeadbeef00", "123e4567-e89b-12d3-a456-426614174000", "DSC_0001_edited"],
)  # fmt: skip
def test_names_that_say_nothing(stem):
    assert says_nothing(stem)


@pytest.mark.parametrize("stem", ["a cat", "cat_01", "photo of a cat 1", "portrait", "rocket", "night 3 in paris"])
def test_names_that_say_something(stem):
    assert not says_nothing(stem)


def test_placeholders_in_captions(planned):
    dataset, plan = planned({"0": "a photo of <token>\na picture", "1": "a cat"})
    remedy = "put your subject's name there"
    assert list(placeholders(plan, [dataset], {"validation_prompt": "a cat"})) == [
        Finding("warning", "placeholder", "set", "1 caption still holds <token>", remedy, ("set/0.png",))
    ]
    dataset, plan = planned({"0": "a token", "1": "a cat"})
    assert list(placeholders(plan, [dataset], {})) == []


def test_placeholders_in_prompts(planned):
    dataset, plan = planned({"0": "a"}, caption_strategy="instanceprompt", instance_prompt=["<token>", "a cat"])
    remedy = "put your subject's name there"
    assert list(placeholders(plan, [dataset], {"validation_prompt": "photo of <token>"})) == [
        Finding("warning", "placeholder", "set", "instance_prompt still holds <token>", remedy, ("'<token>'",)),
        Finding("warning", "placeholder", "validation_prompt", "still holds <token>", remedy, ("'photo of <token>'",)),
    ]


def facts(**settings):
    folders = {"text_encoders": ("text_encoder", "tokenizer", "tokenizer_2")}
    return minimal_facts(**{"token_limit": 6, "part_folders": folders, **settings})


@pytest.fixture
def tokenizers(tmp_path):
    """A T5 tokenizer, which adds one token, and a CLIP tokenizer, which adds two and splits "grey" in four."""
    made = {"tokenizer": t5_tokenizer(["a", "grey", "cat"]), "tokenizer_2": clip_tokenizer(["cat"])}
    for name, tokenizer in made.items():
        tokenizer.save_pretrained(tmp_path / name)
    return {name: tmp_path / name for name in made}


CAPTIONS = {"0": "a a a a a", "1": "a cat", "2": "a a a a a a\na cat", "3": "grey cat", "4": "a a a a a a a a a"}


def test_captions_that_are_cut(planned, index, tokenizers):
    _, plan = planned(CAPTIONS)
    one = {"tokenizer": tokenizers["tokenizer"]}
    expected = Finding(
        "warning",
        "long captions",
        "set",
        "2 of 6 captions have more than 6 tokens of tokenizer and lose their end; the longest has 10",
        "shorten them, or say what matters most first",
        ("set/2.png: 7 tokens", "set/4.png: 10 tokens"),
    )
    for _ in range(2):  # counted, then remembered
        assert list(long_captions(plan, facts(), NoOptions(), one, index)) == [expected]
    assert list(long_captions(plan, facts(token_limit=10), NoOptions(), one, index)) == []
    assert list(long_captions(plan, facts(token_limit=None), NoOptions(), one, index)) == []


def test_prompts_of_pictures_that_are_cut(index, tokenizers):
    prompts = {"validation_prompt": "a cat", "long": "a a a a a a", "grey": "grey cat", "empty": ""}
    (found,) = long_prompts(prompts, facts(), NoOptions(), tokenizers, index)
    assert (found.severity, found.kind, found.where) == ("warning", "long prompts", "pictures")
    assert found.reason == "2 of 4 prompts have more than 6 tokens of tokenizer_2 and lose their end; the longest has 8"
    assert found.examples == ("long: 8 tokens", "grey: 7 tokens")
    assert list(long_prompts(prompts, facts(), NoOptions(), {}, index)) == []
    assert list(long_prompts({"short": "a cat"}, facts(), NoOptions(), tokenizers, index)) == []


def test_every_tokenizer_counts(planned, index, tokenizers):
    _, plan = planned(CAPTIONS)
    (found,) = long_captions(plan, facts(), NoOptions(), tokenizers, index)
    # grey is four tokens of CLIP, cat one, and two are special.
    assert found.examples == (
        "set/0.png: 7 tokens",
        "set/2.png: 8 tokens",
        "set/3.png: 7 tokens",
        "set/4.png: 11 tokens",
    )
    assert "more than 6 tokens of tokenizer_2 and lose" in found.reason
    assert found.reason.endswith("the longest has 11")


def test_what_is_remembered_is_not_counted_again(planned, index, tokenizers):
    _, plan = planned(CAPTIONS)
    one = {"tokenizer": tokenizers["tokenizer"]}
    first = list(long_captions(plan, facts(), NoOptions(), one, index))
    table = tokenizers["tokenizer"] / "tokenizer.json"
    stamp = table.stat()
    table.write_bytes(b" " * stamp.st_size)  # unreadable, and the index cannot know
    os.utime(table, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert list(long_captions(plan, facts(), NoOptions(), one, index)) == first


def test_tokens_of_a_template(planned, index, tokenizers):
    _, plan = planned(CAPTIONS)
    one = {"tokenizer": tokenizers["tokenizer"]}

    def limits(counts, tokens):
        return lambda options: (PromptLimit("tokenizer", tokens, lambda text: f"a grey {text}", counts, cut=False),)

    # Behind two words; the special token counts as part of the text only.
    (whole,) = long_captions(plan, facts(prompt_limits=limits("text", 7)), NoOptions(), one, index)
    (added,) = long_captions(plan, facts(prompt_limits=limits("prompt", 5)), NoOptions(), one, index)
    assert whole.examples == ("set/0.png: 8 tokens", "set/2.png: 9 tokens", "set/4.png: 12 tokens")
    assert added.examples == ("set/2.png: 6 tokens", "set/4.png: 9 tokens")
    assert added.reason == (
        "2 of 6 captions have more than 5 tokens of tokenizer and are whole, but Test is said to follow no more; "
        "the longest has 9"
    )


def test_tokenizers_that_are_not_at_hand(planned, index, tokenizers, tmp_path):
    _, plan = planned(CAPTIONS)
    limits = facts(prompt_limits=lambda options: (PromptLimit("tokenizer", 6),))
    (found,) = long_captions(plan, limits, NoOptions(), {}, index)
    assert (found.severity, found.where) == ("note", "Test")
    assert found.reason == "captions are cut beyond 6 tokens of tokenizer, which is not at hand: none was counted"
    (found,) = long_captions(plan, facts(), NoOptions(), {}, index)
    assert found.reason == "captions are cut beyond 6 tokens, and no tokenizer is at hand: none was counted"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "tokenizer_config.json").write_text("{")
    (found,) = long_captions(plan, limits, NoOptions(), {"tokenizer": tmp_path / "empty"}, index)
    assert found.severity == "note"
    assert "cannot be read" in found.reason


def test_limits_follow_the_options():
    assert prompt_limits(facts(), NoOptions(), ["tokenizer"]) == (PromptLimit("tokenizer", 6),)
    assert prompt_limits(facts(token_limit=None), NoOptions(), ["tokenizer"]) == ()
    own = facts(prompt_limits=lambda options: (PromptLimit("tokenizer", len(type(options).__name__)),))
    assert prompt_limits(own, NoOptions(), []) == (PromptLimit("tokenizer", 9),)


def test_counting():
    tokenizer = t5_tokenizer(["a", "cat"])
    assert count_tokens(tokenizer, PromptLimit("t", 1), ["", "a cat", "xy"]) == [1, 3, 4]
    assert count_tokens(tokenizer, PromptLimit("t", 1, counts="prompt"), ["", "a cat", "xy"]) == [0, 2, 3]
