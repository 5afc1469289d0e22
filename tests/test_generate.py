"""Pictures with what was trained are the run's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tuner.cli.main import main
from tuner.config.loading import load_config
from tuner.training.run import train

SIZE = "64x96"


@pytest.fixture(scope="module")
def runs(twin, photographs, tmp_path_factory):
    """Runs of two steps with pictures at the end, by kind: LoKr with a moving average, LoRA, and a full tune."""
    folder = tmp_path_factory.mktemp("runs")
    entry = {"id": "photographs", "instance_data_dir": str(photographs), "caption_strategy": "textfile",
             "resolution": 192, "resolution_type": "pixel_area", "crop": True}  # fmt: skip
    lokr = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 2, "linear_alpha": 4, "factor": 4}
    (folder / "data.json").write_text(json.dumps([entry]))
    (folder / "lycoris.json").write_text(json.dumps(lokr))
    common = {
        "model_family": "sana", "pretrained_model_name_or_path": str(twin), "cache_dir": str(folder / "cache"),
        "data_backend_config": str(folder / "data.json"), "lycoris_config": str(folder / "lycoris.json"),
        "max_train_steps": 2, "train_batch_size": 2, "lr_scheduler": "constant", "optimizer": "optimi-adamw",
        "mixed_precision": "no", "validation_prompt": "a cat/dog", "validation_step_interval": 2,
        "validation_resolution": SIZE, "validation_num_inference_steps": 2, "validation_guidance": 3.0,
        "validation_negative_prompt": "a blur", "validation_seed": 7, "disable_benchmark": True,
        "sana_complex_human_instruction": ["Paint:"],
    }  # fmt: skip
    own = {
        "lokr": {"model_type": "lora", "lora_type": "lycoris", "use_ema": True, "learning_rate": 0.3},
        "lora": {"model_type": "lora", "lora_type": "standard", "lora_rank": 4, "learning_rate": 0.1},
        "full": {"model_type": "full", "use_ema": True, "learning_rate": 0.01},
    }
    for kind, settings in own.items():
        config = folder / f"{kind}.json"
        config.write_text(json.dumps({**common, **settings, "output_dir": str(folder / kind)}))
        train(load_config(config))
    return folder


@pytest.fixture
def generate(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder and return the pictures that it made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments) -> list[Path]:
        assert main(["generate", *map(str, arguments)]) == 0, capsys.readouterr().err
        return [Path(line) for line in capsys.readouterr().out.splitlines()]

    return run


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def validation_picture(run: Path, nickname: str = "validation") -> np.ndarray:
    folder = run / "validation_images"
    name = f"step_2_{nickname}_0_{SIZE}.png"
    # With a moving average to compare with, the live weights' pictures lie in a folder of their own.
    return pixels(next(path for path in (folder / "live" / name, folder / name) if path.is_file()))


@pytest.mark.parametrize("kind", ["lokr", "lora"])
@pytest.mark.parametrize("place", ["", "checkpoint-2", "pytorch_lora_weights.safetensors"])
def test_an_adapters_picture_is_the_runs_own(kind, place, runs, generate):
    first, second = generate("--adapter", runs / kind / place, "--prompt", "a cat/dog", "--prompt", "")
    for picture, nickname in ((first, "validation"), (second, "unconditional")):
        np.testing.assert_array_equal(pixels(picture), validation_picture(runs / kind, nickname))
    assert first.name == f"a cat_dog_7_{SIZE}.png"


def test_a_full_tunes_picture_is_the_runs_own(runs, generate):
    (live,) = generate("--adapter", runs / "full/checkpoint-2", "--prompt", "a cat/dog")
    np.testing.assert_array_equal(pixels(live), validation_picture(runs / "full"))
    (average,) = generate("--adapter", runs / "full/checkpoint-2", "--weights", "ema", "--prompt", "a cat/dog")
    (pipeline,) = generate("--adapter", runs / "full/pipeline", "--prompt", "a cat/dog")
    (run,) = generate("--model", runs / "full", "--prompt", "a cat/dog", "--weights", "ema")
    np.testing.assert_array_equal(pixels(average), pixels(pipeline))
    np.testing.assert_array_equal(pixels(run), pixels(pipeline))
    assert (pixels(average) != pixels(live)).any()


def test_the_moving_average_is_another_picture(runs, generate):
    pictures = [
        pixels(generate("--adapter", runs / "lokr" / place, "--weights", weights, "--prompt", "a cat")[0])
        for place, weights in [("", "live"), ("", "ema"), ("checkpoint-2", "ema")]
    ]
    assert (pictures[0] != pictures[1]).any()
    np.testing.assert_array_equal(pictures[1], pictures[2])


def test_equal_requests_give_equal_bytes_and_nothing_is_overwritten(runs, generate):
    arguments = ("--adapter", runs / "lora", "--prompt", "a cat", "--seed", 3, "--number", 2, "--output", "out")
    first, other = generate(*arguments)
    again, _ = generate(*arguments)
    assert first.read_bytes() == again.read_bytes()
    assert (pixels(first) != pixels(other)).any()
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"a cat_3_{SIZE}.png", f"a cat_3_{SIZE}_2.png", f"a cat_4_{SIZE}.png", f"a cat_4_{SIZE}_2.png",
    ]  # fmt: skip


def test_a_picture_says_how_it_was_made(runs, generate, twin):
    (file,) = generate("--adapter", runs / "lora", "--prompt", "a é cat", "--strength", 0.5, "--steps", 1)
    text = Image.open(file).text["tuner"]
    found = json.loads(text)
    assert found["prompt"] == "a é cat"
    assert (found["negative_prompt"], found["seed"], found["steps"], found["guidance"]) == ("a blur", 7, 1, 3.0)
    assert (found["width"], found["height"], found["model_family"], found["base_model"]) == (64, 96, "sana", "twin")
    assert found["trained"]["strength"] == 0.5
    assert found["trained"]["step"] == 2
    assert len(found["trained"]["sha256"]) == 64
    assert str(runs) not in text
    assert str(twin) not in text


def test_what_is_asked_for_changes_the_picture(runs, generate):
    def picture(*arguments):
        return pixels(generate("--adapter", runs / "lora", "--prompt", "a cat", *arguments)[0])

    usual = picture()
    assert picture("--resolution", "96").shape == (96, 96, 3)
    assert picture("--width", 96, "--height", 64).shape == (64, 96, 3)
    for arguments in (["--negative", "a dog"], ["--guidance", 5], ["--steps", 3], ["--strength", 0.5], ["--seed", 8],
                      ["--sana_complex_human_instruction", "Draw:"], ["--precision", "bf16"]):  # fmt: skip
        assert (picture(*arguments) != usual).any(), arguments
    base = pixels(generate("--family", "sana", "--base", twin_of(runs), "--prompt", "a cat", "--negative", "a blur",
                           "--guidance", 3, "--steps", 2, "--seed", 7, "--resolution", SIZE, "--precision", "no",
                           "--sana_complex_human_instruction", "Paint:")[0])  # fmt: skip
    np.testing.assert_array_equal(picture("--strength", 0), base)
    assert (usual != base).any()
    np.testing.assert_array_equal(picture("--guidance", 1), picture("--guidance", 1, "--negative", "a dog"))


def twin_of(runs: Path) -> str:
    return json.loads((runs / "lora.json").read_text())["pretrained_model_name_or_path"]


@pytest.mark.parametrize("kind", ["lokr", "lora"])
def test_merging_changes_no_picture_and_quantising_comes_after_it(kind, runs, generate):
    arguments = ("--adapter", runs / kind, "--prompt", "a cat")
    (on,), (merged,) = generate(*arguments), generate(*arguments, "--merge")
    assert np.abs(pixels(on) - pixels(merged)).max() <= 1
    (quantised,) = generate(*arguments, "--merge", "--quantise", "int8-quanto")
    difference = np.abs(pixels(on) - pixels(quantised))
    assert 0 < difference.mean() < 3
    assert json.loads(Image.open(quantised).text["tuner"])["quantised"] == "int8-quanto"


def test_prompts_come_from_files_too(runs, generate):
    Path("prompts.txt").write_text("a cat\n\na dog\n")
    Path("prompts.json").write_text(json.dumps({"<cat>": "a cat", "none": ""}))
    few = ("--adapter", runs / "lora", "--steps", 1, "--guidance", 1, "--output", "out")
    names = [file.name for file in generate(*few, "--prompts", "prompts.txt")]
    assert names == [f"a cat_7_{SIZE}.png", f"a dog_7_{SIZE}.png"]
    names = [file.name for file in generate(*few, "--prompts", "prompts.json")]
    assert names == [f"_cat__7_{SIZE}.png", f"none_7_{SIZE}.png"]
    # Windows' editors mark files as UTF-8, and write trailing commas no less than others do.
    Path("marked.txt").write_text("a small cat\r\n", encoding="utf-8-sig")
    assert [file.name for file in generate(*few, "--prompts", "marked.txt")] == [f"a small cat_7_{SIZE}.png"]
    Path("list.json").write_text('["一只猫 🐈", "",]', encoding="utf-8-sig")
    files = generate(*few, "--prompts", "list.json")
    assert [file.name for file in files] == [f"一只猫 🐈_7_{SIZE}.png", f"unconditional_7_{SIZE}.png"]
    assert json.loads(Image.open(files[0]).text["tuner"])["prompt"] == "一只猫 🐈"
    Path("library.json").write_text(json.dumps({"cat": {"prompt": "a cat"}}))
    assert [file.name for file in generate(*few, "--prompts", "library.json", "--prompt", "CAT")] == [
        f"CAT_7_{SIZE}.png", f"cat_2_7_{SIZE}.png",
    ]  # fmt: skip


def test_a_long_prompt_of_any_letters_has_a_name_that_file_systems_take(runs, generate):
    few = ("--adapter", runs / "lora", "--steps", 1, "--guidance", 1)
    for prompt in ("🐈" * 200, "猫" * 200, "../../" * 30):
        (file,) = generate(*few, "--prompt", prompt)
        assert file.is_file()
        assert file.parent == Path("generated")


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        (["--quantise", "int8-quanto", "--steps", "0"],
         ["no prompt is given", "quantising before merging", "add --merge", "steps: is 0"]),
        (["--prompt", "a", "--quantise", "int9", "--merge"], ["quantise: 'int9'"]),
        (["--prompt", "a", "--quantise", "int2-quanto", "--merge"], ["int2-quanto is not worth it for Sana"]),
        (["--prompt", "a", "--width", "64"], ["width and height: both are needed"]),
        (["--prompt", "a", "--sana_human_instruction", "x"], ["sana_human_instruction"]),
        (["--prompt", "a", "--family", "omnigen"], ["was trained for sana"]),
        (["--prompt", "a", "stray"], ["'stray' is no argument"]),
        (["--base", "/tmp/none/at all"], ["--base: /tmp/none/at all is neither a folder nor a repository"]),
        (["--seed", str(2**64), "--guidance", "nan", "--strength", "inf"],
         ["seed: is 18446744073709551616, and seeds end at 9223372036854775807", "guidance: is nan",
          "strength: is inf"]),
        (["--prompts", "nowhere.json", "--resolution", "1x", "--number", "0", "--family", "omnigen", "stray"],
         ["nowhere.json", "'1x' is no picture size", "number: is 0", "was trained for sana", "'stray' is no argument",
          "5 problems found"]),
        (["--prompt", "a", "--output", "/dev/null/pictures"], ["output: /dev/null is no folder"]),
        (["--adapter", "nowhere", "--steps", "0"], ["nowhere does not exist", "steps: is 0", "no prompt is given"]),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_before_anything_is_loaded(arguments, reasons, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--adapter", str(runs / "lora"), *arguments]) == 2
    error = capsys.readouterr().err
    for reason in reasons:
        assert reason in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is no valid JSON: line 1"),
        ('["a", 1]', "1 is no text"),
        ("3", "must be an object of nickname -> prompt, not int"),
        ('{"a": {"prompt": "x", "adapter_strength": 0.5}}', "a: adapter_strength belongs to validation pictures"),
        ('{"a": 1}', "'a' must be a prompt"),
    ],
)
def test_files_that_hold_no_prompts_are_refused(content, reason, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("prompts.json").write_text(content)
    assert main(["generate", "--adapter", str(runs / "lora"), "--prompts", "prompts.json"]) == 2
    error = capsys.readouterr().err
    assert "1 problem found" in error
    assert f"prompts.json: prompts: {reason}" in error.replace("cannot be used: ", "")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["foo.weight"], "odd.safetensors holds no adapter of a known format; of 1 tensors the first is foo.weight"),
        (["foo.a.lora_A.weight"], "odd.safetensors does not fit SanaTransformer2DModel"),
        (["foo.a.lora_A.weight", "foo.a.lora_B.weight"], "odd.safetensors does not fit SanaTransformer2DModel"),
        (["diffusion_model.a.lora_up.weight"], "a is none of the layers that Sana"),
    ],
)
def test_a_file_that_fits_nothing_is_refused(names, reason, twin, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_file({name: torch.zeros(2, 2) for name in names}, "odd.safetensors")
    few = ["--family", "sana", "--base", str(twin), "--prompt", "a", "--resolution", "64", "--steps", "1"]
    assert main(["generate", "--adapter", "odd.safetensors", *few]) == 1
    assert f"error: {reason}" in capsys.readouterr().err


def test_what_is_not_there_is_named(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, reason in [
        (["--adapter", "nowhere"], "nowhere does not exist"),
        (["--adapter", runs / "lora", "--weights", "ema"], "has no moving average"),
        (["--adapter", runs / "full/pipeline", "--weights", "live"], "holds the moving average"),
        (["--adapter", tmp_path], "holds no adapter and no pipeline"),
    ]:
        assert main(["generate", "--prompt", "a", *map(str, arguments)]) == 1
        assert reason in capsys.readouterr().err


def test_a_moved_adapter_asks_for_its_base_and_another_base_is_noticed(runs, generate, twin, capsys):
    moved = Path("moved.safetensors")
    moved.write_bytes((runs / "lora/pytorch_lora_weights.safetensors").read_bytes())
    assert main(["generate", "--adapter", str(moved), "--prompt", "a cat"]) == 1
    assert "give its folder with --base" in capsys.readouterr().err
    few = ("--adapter", moved, "--prompt", "a cat", "--steps", 1)
    assert main(["generate", *map(str, few), "--base", str(twin)]) == 0
    assert "was trained on" not in capsys.readouterr().err
    assert main(["generate", *map(str, few), "--base", str(runs / "full/pipeline")]) == 0
    assert "this base model is another one" in capsys.readouterr().err
    receipt = Path("settings_receipt.json")
    receipt.write_text(json.dumps([{"key": "pretrained_model_name_or_path", "value": "/moved/away"}]))
    assert main(["generate", *map(str, few)]) == 1
    assert "was trained on the local model /moved/away, which is not there any more" in capsys.readouterr().err
