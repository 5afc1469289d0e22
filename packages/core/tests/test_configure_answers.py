"""What becomes of answers, without a terminal."""

import json
import os
from pathlib import Path

import pytest

from tuner.cli.configure.catalogue import USUAL, judge, read_answer, settings_of_lycoris, settings_of_run, show
from tuner.cli.configure.draft import MISSING, Draft, open_draft
from tuner.cli.configure.review import find_problems, hide_secrets
from tuner.cli.configure.session import Session, usual_settings
from tuner.cli.configure.sheet import Sheet
from tuner.config.topics import TOPICS
from tuner.errors import ConfigError, TunerError

SETTINGS = settings_of_run(None)


def sheet_of(**values) -> Sheet:
    values = {key.replace("__", "--"): value for key, value in values.items()}
    return Sheet(Draft(Path("config.json"), dict(values), values), SETTINGS)


def test_the_usual_settings_exist_and_each_belongs_to_one_topic():
    assert set(USUAL) <= set(SETTINGS)
    assert sorted(USUAL) == sorted(key for topic in TOPICS for key in usual_settings(topic))


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("model_type", ["lora", "full"]),
        ("use_ema", [True, False]),
        ("aspect_bucket_alignment", [8, 16, 24, 32, 64]),
        ("lora_rank", None),
        ("validation_prompt_library", None),
    ],
)
def test_choices_come_from_the_types(key, choices):
    assert SETTINGS[key].choices == choices


def test_what_is_nested_in_a_lycoris_file_is_not_asked_for():
    settings = settings_of_lycoris()
    assert {"algo", "multiplier", "linear_dim", "linear_alpha", "factor"} <= set(settings)
    assert settings["bypass_mode"].choices == [True, False, None]
    assert "apply_preset" not in settings


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "4e-5", 4e-5),
        ("lora_rank", "+8", 8),
        ("validation_prompt", "42", "42"),
        ("validation_prompt", '"quoted"', '"quoted"'),
        ("validation_prompt", "null", "null"),
        ("validation_prompt", " a cat ", "a cat"),
        ("instance_prompt", '["a cat", "a dog"]', ["a cat", "a dog"]),
        ("validation_prompt_library", "true", True),
        ("validation_prompt_library", "prompts.json", "prompts.json"),
        ("output_dir", "7", "7"),
        ("flow_schedule_shift", "none", "none"),
        ("skip_file_discovery", "vae text", "vae text"),
        ("hub_model_id", "{env:NO_SUCH_VARIABLE}", "{env:NO_SUCH_VARIABLE}"),
    ],
)
def test_typed_text_becomes_what_a_file_holds(key, text, value):
    verdict = read_answer(SETTINGS[key], text)
    assert (verdict.value, verdict.message) == (value, None)
    assert type(verdict.value) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("learning_rate", "fast", "'fast' is not accepted: input should be a valid number"),
        ("learning_rate", "0", "'0' is not accepted: input should be greater than 0"),
        ("validation_resolution", "1024y1024", "'1024y1024' is no picture size"),
        ("flow_custom_timesteps", "1,2000", "must lie in 0 to 1"),
        ("output_dir", " ", "is required"),
        ("lr_scheduler", "cosine-ish", "'cosine-ish' is not accepted"),
    ],
)
def test_typed_text_is_refused_with_the_models_own_message(key, text, message):
    assert message in str(read_answer(SETTINGS[key], text).message)


def test_what_is_shown_reads_back_as_the_same():
    for key, value in {
        "instance_prompt": ["a", "ü"], "lora_rank": 4, "learning_rate": 1e-7, "use_ema": True, "output_dir": "x y",
        "webhook_config": {"type": "raw"},
    }.items():  # fmt: skip
        assert read_answer(SETTINGS[key], show(value)).value == value


def test_required_neighbours_do_not_disturb_a_verdict():
    assert judge(SETTINGS["train_batch_size"], "6").value == 6
    assert judge(SETTINGS["model_type"], "LORA").value == "lora"


def test_an_answer_that_says_the_same_keeps_the_notation():
    sheet = sheet_of(__learning_rate="4e-5", checkpointing_steps="7", use_ema="false", lora_alpha="")
    for key, value in {
        "learning_rate": 4e-5, "checkpoint_step_interval": 7, "use_ema": False, "lora_alpha": None, "seed": 42,
    }.items():  # fmt: skip
        sheet.answer(key, value)
    assert not sheet.draft.changed
    assert list(sheet.draft.values) == ["--learning_rate", "checkpointing_steps", "use_ema", "lora_alpha"]


def test_another_answer_keeps_spelling_and_place():
    sheet = sheet_of(__learning_rate="4e-5", checkpointing_steps="7", use_ema="false")
    sheet.answer("checkpoint_step_interval", 500)  # the default, which is now said on purpose
    sheet.answer("seed", 7)
    sheet.clear("use_ema")
    assert list(sheet.draft.values.items()) == [("--learning_rate", "4e-5"), ("checkpointing_steps", 500), ("seed", 7)]


def test_a_setting_that_is_spelt_twice_changes_twice():
    sheet = sheet_of(seed=1, __seed=1)
    sheet.answer("seed", 2)
    assert sheet.draft.values == {"seed": 2, "--seed": 2}


def test_an_invalid_value_gives_way_even_to_the_default():
    sheet = sheet_of(train_batch_size=0)
    assert sheet.value("train_batch_size") is MISSING
    sheet.answer("train_batch_size", 4)
    assert sheet.draft.values == {"train_batch_size": 4}


def test_needs_follow_answers_and_defaults():
    sheet = sheet_of(model_type="lora")
    assert sheet.unmet_needs("lora_rank") == []
    assert sheet.unmet_needs("lycoris_config") == ["lora_type is standard"]
    assert sheet.unmet_needs("ema_decay") == ["use_ema is False"]
    sheet.answer("lora_type", "lycoris")
    assert sheet.unmet_needs("lora_rank") == ["lora_type is lycoris"]
    assert sheet.unmet_needs("lycoris_config") == []
    assert sheet_of(pretrained_model_name_or_path="x").unmet_needs("model_flavour") == [
        "pretrained_model_name_or_path is x"
    ]


def test_the_difference_shows_settings_and_not_notation(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"seed":1,   "learning_rate": 1e-4, // slow\n "use_ema": true,}')
    draft = open_draft(path)
    assert not draft.changed
    assert draft.diff() == []
    assert [warning.split(": ")[-2:] for warning in draft.warnings] == [
        ["line 1", "comment is not part of JSON; read as if it were absent"],
        ["line 2", "trailing comma is not part of JSON; read as if it were absent"],
    ]
    draft.put(("seed",), 2)
    assert draft.diff() == [
        f"--- {path}", f"+++ {path}", "@@ -1,5 +1,5 @@", " {", '-  "seed": 1,', '+  "seed": 2,',
        '   "learning_rate": 0.0001,', '   "use_ema": true', " }",
    ]  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda url: url, lambda url: [{"url": url, "ssl": True}]])
def test_secrets_do_not_show_in_the_difference(wrap):
    old, new = wrap("https://x/old"), wrap("https://x/new")
    draft = Draft(Path("c.json"), {"seed": 2, "--webhook_config": new}, {"seed": 1, "--webhook_config": old})
    shown = "\n".join(hide_secrets(draft.diff(), draft))
    assert "https" not in shown
    assert shown.count('"(hidden)"') == 2
    assert '-  "seed": 1,' in shown


def test_saving_follows_a_link_keeps_the_mode_and_leaves_nothing_else(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("{}")
    real.chmod(0o604)
    link.symlink_to(real)
    draft = open_draft(link)
    draft.put(("output_dir",), "ü")
    draft.save()
    assert link.is_symlink()
    assert real.read_text() == '{\n  "output_dir": "ü"\n}\n'
    assert real.stat().st_mode & 0o777 == 0o604
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_a_new_file_gets_the_usual_mode(tmp_path):
    before = os.umask(0o027)
    try:
        open_draft(tmp_path / "a" / "b.json").save()
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["{}", None])
def test_a_file_that_appeared_or_went_is_not_overwritten(tmp_path, text):
    path = tmp_path / "config.json"
    if text is None:
        path.write_text("{}")
    draft = open_draft(path)
    path.write_text(text) if text else path.unlink()
    draft.put(("seed",), 1)
    with pytest.raises(TunerError, match="changed by somebody else"):
        draft.save()
    assert (path.read_text() if text else path.exists()) == (text or False)
    assert len(list(tmp_path.iterdir())) == int(text is not None)


def test_problems_are_those_of_a_run_and_name_the_file(write_config):
    path = write_config("sub/mine.json", max_train_steps=0, lr_warmup_steps=-1)
    session = Session(open_draft(path))
    found = find_problems(session.sheet, None).problems
    files = {problem.key: problem.file for problem in found}
    assert files == {"lr_warmup_steps": str(path), "max_train_steps": str(path)}
    session.sheet.answer("lr_warmup_steps", 1)
    (problem,) = find_problems(session.sheet, None).problems
    assert (problem.key, problem.file) == ("max_train_steps", str(path))
    session.sheet.answer("max_train_steps", 1)
    assert find_problems(session.sheet, None).problems == ()
    assert [item.name for item in path.parent.iterdir()] == ["mine.json"]


def test_a_lycoris_file_that_is_not_there_yet_is_checked_with_the_rest(project, write_config):
    path = write_config("mine.json", lora_type="lycoris", lycoris_config="lokr.json")
    session = Session(open_draft(path))
    assert session.locate("lycoris_config") is None
    assert session.place_for("lycoris_config") == project / "lokr.json"
    lokr = Draft(project / "lokr.json", {"algo": "lokr", "multiplier": 1, "linear_alpha": 1})
    (problem,) = find_problems(session.sheet, lokr).problems
    assert problem.file == str(project / "lokr.json")
    assert "linear_dim is required" in problem.message
    lokr.put(("linear_dim", "dim"), 4)
    assert find_problems(session.sheet, lokr).problems == ()
    assert not lokr.path.exists()


def test_folders_that_do_not_exist_yet_stay_so(project, write_config):
    values = json.loads(write_config("mine.json").read_text())
    draft = Draft(project / "new" / "deep" / "config.json", values)
    assert find_problems(Session(draft).sheet, None).problems == ()
    draft.put(("user_prompt_library",), "nosuchfile.json")
    (problem,) = find_problems(Session(draft).sheet, None).problems
    assert f"{project / 'new' / 'deep' / 'nosuchfile.json'}" in problem.message
    assert not (project / "new").exists()


def test_the_family_gives_settings_and_defaults(write_config):
    session = Session(open_draft(write_config("mine.json")))
    assert session.sheet.default("learning_rate") == 1e-5
    assert session.sheet.default("model_flavour") == "a"
    assert session.sheet.default("toy_strength") == 1.0
    session.sheet.answer("model_flavour", "b")
    session.follow_family()
    assert session.sheet.default("toy_strength") == 3.0
    session.sheet.answer("model_family", "nosuchfamily")
    session.follow_family()
    assert session.family is None
    assert "toy_strength" not in session.sheet.settings


def test_only_json_is_edited(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("seed = 1")
    with pytest.raises(ConfigError, match=r"edit it by hand, or name a \.json file"):
        open_draft(path)
