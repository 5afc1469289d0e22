"""`tuner check`, as people and programs meet it."""

import json
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from tuner.cli.main import main

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}


def closed(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def several(items):
    return {"type": "array", "items": items}


BUCKET = {"dataset": TEXT, "width": COUNT, "height": COUNT, "aspect": {"type": "number"}, "images": COUNT,
          "repeats": COUNT, "samples": COUNT, "batches": COUNT}  # fmt: skip
PLAN = {
    "type": "object",
    "required": ["fingerprint", "buckets", "datasets", "unused", "batches_per_epoch", "steps_per_epoch"],
    "properties": {"fingerprint": TEXT, "buckets": several({"type": "object", "required": list(BUCKET)})},
}
STRUCTURE = closed(
    configuration={"anyOf": [several(TEXT), {"type": "null"}]},
    family={"anyOf": [closed(name=TEXT, title=TEXT, package=TEXT, version=TEXT), {"type": "null"}]},
    plan={"anyOf": [PLAN, {"type": "null"}]},
    length={"anyOf": [closed(steps=COUNT, epochs={"type": "number"}, steps_per_epoch=COUNT), {"type": "null"}]},
    evaluation={"anyOf": [PLAN, {"type": "null"}]},
    findings=several(
        closed(
            severity={"enum": ["error", "warning", "note"]},
            kind=TEXT,
            where=TEXT,
            reason=TEXT,
            remedy=TEXT,
            examples=several(TEXT),
        )
    ),
    receipt=several(closed(key=TEXT, value={}, origin=TEXT, unread={"type": ["string", "null"]})),
    exit_code={"enum": [0, 1, 2]},
)


@pytest.fixture
def pictures(photographs, tmp_path):
    """A copy of the photographs that a test may spoil."""
    return shutil.copytree(photographs, tmp_path / "pictures")


@pytest.fixture
def clean(project, pictures):
    """Write a configuration without anything to be found; settings may be added."""

    def write(dataset=None, **settings):
        fields = {"instance_data_dir": "pictures", "resolution": 128, "repeats": 1, **(dataset or {})}
        defaults = {"caption_dropout_probability": 0.1, "vae_batch_size": 1}
        return str(project(dataset=fields, **(defaults | settings)))

    return write


def checked(capsys, *arguments):
    code = main(["check", "--json", *arguments])
    report = json.loads(capsys.readouterr().out)
    Draft202012Validator(STRUCTURE).validate(report)
    assert report["exit_code"] == code
    return code, report


def kinds(report):
    return [(found["severity"], found["kind"], found["where"]) for found in report["findings"]]


def test_nothing_is_found(clean, capsys):
    config = clean()
    for arguments in ([], ["--strict"]):
        assert main(["check", config, *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"configuration: {config}, ")
        assert lines[1].startswith("family:        Sana, tuner-model-sana ")
        assert "length: 6 steps, 1 epoch of 6 steps" in lines
        assert lines[-1] == "everything that can be checked without loading a model is in order"
    assert not Path("output").exists()


def test_notes_are_no_mistakes(clean, capsys):
    code, report = checked(capsys, clean(ema_decay=0.9), "--strict")
    assert code == 0
    assert kinds(report) == [("note", "no effect", "ema_decay")]


def test_processes_count_in_the_length(clean, capsys):
    code, report = checked(capsys, clean(num_processes=2, gradient_accumulation_steps=1))
    assert code == 0
    assert (report["plan"]["num_processes"], report["plan"]["gradient_accumulation_steps"]) == (2, 1)
    alone = checked(capsys, clean(gradient_accumulation_steps=2))[1]
    assert alone["plan"]["num_processes"] == 1
    assert report["length"] == alone["length"] == {"steps": 6, "epochs": 2.0, "steps_per_epoch": 3}
    assert [finding["remedy"] for finding in report["findings"]] == [
        finding["remedy"].replace("gradient_accumulation_steps", "num_processes") for finding in alone["findings"]
    ]


def test_json_says_the_same_and_nothing_else(clean, capsys):
    code, report = checked(capsys, clean())
    assert code == 0
    assert kinds(report) == []
    assert report["length"] == {"steps": 6, "epochs": 1.0, "steps_per_epoch": 6}
    assert [(bucket["width"], bucket["images"]) for bucket in report["plan"]["buckets"]] == [(128, 6)]
    (row,) = [row for row in report["receipt"] if row["key"] == "max_train_steps"]
    assert (row["value"], row["unread"]) == (6, None)


def test_a_mistake_is_a_warning_unless_strict(clean, pictures, capsys):
    shutil.copy(pictures / "coffee.png", pictures / "coffee 2.png")
    (pictures / "coffee 2.txt").write_text("another cup")
    config = clean()
    assert main(["check", config]) == 0
    text = capsys.readouterr().out
    assert "warning: photographs: 1 image repeats another byte for byte (photographs/coffee 2.png = " in text
    assert "    -> remove the copies; repeats is the way to show pictures more often\n" in text
    assert text.endswith("found: 1 warning\n")
    assert main(["check", "--strict", config]) == 1
    capsys.readouterr()
    code, report = checked(capsys, config, "--strict")
    assert code == 1
    assert kinds(report) == [("warning", "duplicates", "photographs")]


def test_pictures_without_caption_or_mask(clean, pictures, capsys):
    (pictures / "coffee.txt").unlink()
    (pictures / "rocket.txt").write_text(" \n")
    config = clean({"conditioning_data": "masks"})
    shutil.copytree(pictures, "masks", ignore=lambda _, names: [name for name in names if "chelsea" in name])
    shutil.copy(pictures / "chelsea.png", "masks/nobody.png")
    Image.new("L", (100, 20)).save("masks/astronaut.png")
    (entry,) = json.loads(Path("multidatabackend.json").read_text())
    masks = {
        "id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask", "instance_data_dir": "masks",
    }  # fmt: skip
    Path("multidatabackend.json").write_text(json.dumps([entry, masks]))
    _, report = checked(capsys, config)
    found = [(item["kind"], item["reason"].partition(": ")[2], item["examples"]) for item in report["findings"]]
    assert found == [
        ("unused", "has a mask of another shape: 100x20 for a picture of 160x160", ["photographs/astronaut.png"]),
        ("unused", "has no mask chelsea.* in masks", ["photographs/chelsea.png"]),
        ("unused", "has no .txt file of its name beside it", ["photographs/coffee.png"]),
        ("unused", "its .txt file is empty", ["photographs/rocket.png"]),
        ("spare masks", "", ["nobody.png"]),
    ]


def test_long_captions_are_counted_by_the_tokenizer_of_the_model(clean, pictures, capsys):
    (pictures / "coffee.txt").write_text("X" * 298)
    assert checked(capsys, clean())[1]["findings"] == []
    (pictures / "coffee.txt").write_text("X" * 299)
    (pictures / "rocket.txt").write_text("a rocket\n" + "Y" * 400)
    _, report = checked(capsys, clean())
    (found,) = report["findings"]
    assert found["reason"] == (
        "2 of 11 captions have more than 298 tokens of tokenizer and lose their end; the longest has 400"
    )
    assert found["examples"] == ["photographs/coffee.png: 299 tokens", "photographs/rocket.png: 400 tokens"]
    # Without the instruction before it, a prompt may have one token more.
    _, report = checked(capsys, clean(), "--sana_complex_human_instruction", "None")
    assert report["findings"][0]["examples"] == ["photographs/rocket.png: 400 tokens"]


def test_long_prompts_of_pictures_are_named(clean, capsys):
    Path("prompts.json").write_text(json.dumps({"short": "a cat", "endless": "X" * 400}))
    prompts = {"validation_step_interval": 2, "user_prompt_library": "prompts.json", "validation_prompt": "Y" * 299}
    (found,) = checked(capsys, clean(**prompts))[1]["findings"]
    assert (found["kind"], found["severity"], found["where"]) == ("long prompts", "warning", "pictures")
    assert found["examples"] == ["validation_prompt: 299 tokens", "endless: 400 tokens"]
    assert checked(capsys, clean(**{**prompts, "validation_step_interval": 0}))[1]["findings"] != [found]


def test_what_would_keep_a_run_from_beginning(clean, capsys):
    Path("clip").mkdir()
    Path("clip/config.json").write_text('{"model_type": "bert"}')
    scored = {"evaluation_type": "clip", "pretrained_evaluation_model_name_or_path": "clip"}
    pictures = {"validation_step_interval": 2, "validation_prompt": "a cat"}
    code, report = checked(capsys, clean(**scored, **pictures, report_to="swanlab"))
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert code == report["exit_code"] == 1
    assert found["extension"]["reason"] == "report_to is swanlab, which is not installed"
    assert found["extension"]["remedy"].startswith("pip install ")
    assert "describes a model of type 'bert'" in found["scores"]["reason"]
    assert not Path("output").exists()


def test_a_model_that_was_not_downloaded(clean, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, report = checked(capsys, clean(pretrained_model_name_or_path="owner/nothing"))
    assert code == 0
    (found,) = report["findings"]
    assert (found["severity"], found["kind"]) == ("note", "long captions")
    assert "tokenizer, which is not at hand: none was counted" in found["reason"]


def test_pictures_that_were_not_fetched(clean, capsys):
    Path("pictures.csv").write_text("url,caption\nhttp://localhost:1/a.png,a cat\n")
    config = clean()
    entries = json.loads(Path("multidatabackend.json").read_text())
    remote = {"id": "web", "type": "csv", "csv_file": "pictures.csv", "caption_strategy": "csv", "resolution": 128}
    Path("multidatabackend.json").write_text(json.dumps([*entries, remote]))
    code, report = checked(capsys, config)
    assert code == 0
    assert kinds(report) == [("note", "not fetched", "web")]
    assert [bucket["dataset"] for bucket in report["plan"]["buckets"]] == ["photographs"]
    Path("multidatabackend.json").write_text(json.dumps([remote]))
    code, report = checked(capsys, config)
    assert (code, report["plan"], report["length"]) == (0, None, None)
    assert main(["check", config]) == 0
    assert "web: its pictures (csv) were not fetched yet" in capsys.readouterr().out
    Path("pictures.csv").write_text("address\n")
    code, report = checked(capsys, config)
    assert code == 2
    assert kinds(report) == [("error", "configuration", "data set file, data set 'web': csv_file")]


def test_what_is_found_in_the_configuration(clean, capsys):
    Path("library.json").write_text(json.dumps({"portrait": "photo of <token>"}))
    config = clean(
        {"caption_strategy": "instanceprompt", "instance_prompt": "<token>"},
        validation_prompt="a <token>",
        user_prompt_library="library.json",
        validation_step_interval=5,
        vae_batch_size=8,
        ema_decay=0.9,
    )
    _, report = checked(capsys, config)
    assert kinds(report) == [
        ("warning", "configuration", ""),
        ("note", "no effect", "ema_decay"),
        ("warning", "placeholder", "photographs"),
        ("warning", "placeholder", "validation_prompt"),
        ("note", "encoder batches", "photographs"),
    ]
    assert "1 prompt still holds <token> (first: 'portrait')" in report["findings"][0]["reason"]


def test_nothing_to_train_on(clean, pictures, capsys):
    for path in pictures.glob("*.txt"):
        path.unlink()
    code, report = checked(capsys, clean())
    assert code == 1
    assert report["plan"] is None
    assert report["family"]["name"] == "sana"
    (found,) = report["findings"]
    assert (found["severity"], found["kind"]) == ("error", "data")
    assert "no images detected in data set 'photographs'" in found["reason"]
    assert main(["check", clean()]) == 1
    assert "no images detected" in capsys.readouterr().err


def test_a_wrong_configuration(clean, capsys):
    config = clean(optimizer="sgd", learning_rte=1)
    code, report = checked(capsys, config)
    assert code == 2
    assert report["configuration"] is None
    assert kinds(report) == [
        ("error", "configuration", f"{config}: learning_rte"),
        ("error", "configuration", f"{config}: optimizer"),
    ]
    assert report["findings"][0]["remedy"] == "did you mean learning_rate?"


def test_explaining_a_setting(clean, capsys):
    assert main(["check", clean(), "--explain", "learning_rate", "--learning_rate=0.5"]) == 0
    text = capsys.readouterr().out
    assert "learning_rate" in text
    assert "0.5" in text
    assert "configuration:" not in text
    assert "bucket" not in text


def test_the_help_names_its_options(capsys):
    assert main(["check", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--strict", "--json", "--explain KEY", "--learning_rate"):
        assert option in text
    assert main(["train", "--help"]) == 0
    assert "--strict" not in capsys.readouterr().out
