"""The page of whole runs."""

import json
from pathlib import Path

from PIL import Image

from tuner.config.loading import load_config
from tuner.training.run import train

PICTURES = {
    "validation_prompt": "a cat",
    "validation_step_interval": 2,
    "validation_resolution": "64,96x64",
    "validation_num_inference_steps": 2,
    "log_interval": 1,
}


def record() -> dict:
    text = Path("output/index.html").read_text(encoding="utf-8")
    return json.loads(text.split('id="record">')[1].split("</script>")[0])


def test_a_run_and_its_continuation_make_one_page(project, tmp_path):
    train(load_config(project(max_train_steps=4, hub_model_id="owner/mine", **PICTURES)))
    first = record()
    assert (first["state"], first["step"], first["last"]) == ("done", 4, 4)
    assert [(each["step"], each["label"]) for each in first["rounds"]] == [(0, "base model"), (2, "live"), (4, "live")]
    assert first["prompts"] == {"validation": "a cat", "unconditional": ""}
    for each in first["rounds"]:
        assert Image.open(Path("output", each["sheet"])).format == "JPEG"
        for pictures in each["pictures"].values():
            assert [Image.open(Path("output", file)).size for file, _, _ in pictures] == [(64, 64), (96, 64)]
            assert [(width, height) for _, width, height in pictures] == [(64, 64), (96, 64)]
    journal = [json.loads(line) for line in Path("output/metrics.jsonl").read_text().splitlines()]
    assert first["metrics"]["columns"]["loss"] == [float(f"{row['loss']:.6g}") for row in journal]
    given = {row["key"]: row for row in first["settings"] if row["given"]}
    assert given["validation_prompt"]["value"] == "a cat"
    assert given["hub_model_id"]["unread"]
    assert str(tmp_path) not in Path("output/index.html").read_text(encoding="utf-8")

    train(load_config(project(max_train_steps=6, **PICTURES)))
    both = record()
    assert both["metrics"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert both["rounds"][:3] == first["rounds"]
    assert both["rounds"][3]["step"] == 6
