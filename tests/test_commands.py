"""The command line, as people meet it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tuner.cli.main import main


def test_families_are_listed(capsys):
    assert main(["families"]) == 0
    assert re.search(r"sana: Sana, tuner-model-sana \d", capsys.readouterr().out)
    assert main(["families", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    (sana,) = [family for family in listed["families"] if family["name"] == "sana"]
    assert sana["default_flavour"] in sana["flavours"]
    assert listed["broken"] == []


def test_a_broken_family_is_listed_with_its_reason(tmp_path):
    (tmp_path / "broken_family.py").write_text("import nosuchmodule")
    info = tmp_path / "broken_family-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-family\nVersion: 3\n")
    (info / "entry_points.txt").write_text("[tuner.families]\nbroken = broken_family\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tuner.cli.main import main; main(['families'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sana: Sana" in result.stdout
    assert "nosuchmodule" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["families"], ["train", "--help"], ["schema"], ["--version"]])
def test_quick_commands_import_nothing_heavy(arguments):
    heavy = {"torch", "diffusers", "transformers", "accelerate"}
    if arguments[-1] in ("--version", "families") or arguments == ["--help"]:
        heavy |= {"numpy", "tuner.config"}  # only what reads settings needs these
    code = (
        "import sys\nfrom tuner.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"assert not {heavy!r} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_help_of_train_names_every_setting(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for key in ("--learning_rate", "--flow_schedule_shift", "--resume_from_checkpoint", "--use_ema"):
        assert key in text


def test_the_schema_accepts_good_files_and_refuses_bad_ones(project, capsys):
    config = json.loads(project().read_text())
    assert main(["schema"]) == 0
    validator = Draft202012Validator(json.loads(capsys.readouterr().out))
    validator.check_schema(validator.schema)
    assert validator.is_valid(config)
    assert validator.is_valid({"--learning_rate": "4e-5", "checkpointing_steps": 3, "use_ema": "true"})
    assert not validator.is_valid({**config, "learning_rte": 1})
    assert not validator.is_valid({**config, "optimizer": "sgd"})
    assert not validator.is_valid({**config, "train_batch_size": 0})


def test_check_shows_plan_and_receipt_and_writes_no_output(project, photographs, capsys):
    Path("pictures").mkdir()
    for path in photographs.iterdir():
        Path("pictures", path.name).write_bytes(path.read_bytes())
    Path("pictures/nonsense.png").write_bytes(b"no picture at all")
    config = project(dataset={"instance_data_dir": "pictures", "crop_style": "center"}, ema_decay=0.9)
    assert main(["check", str(config)]) == 0
    text = capsys.readouterr().out
    assert "192x192" in text
    assert "256x128" in text
    assert "nonsense.png" in text
    assert "ema_decay" in text
    assert "photographs: crop_style" in text
    assert not Path("output").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage"),
        (["train", "nosuchfile.json"], 2, "no such file"),
        (["train"], 2, "looked for config.json"),
        (["check", "a.json", "b.json"], 2, "second configuration"),
        (["twin", "nosuchfamily", "x"], 1, "not installed"),
    ],
)
def test_bad_usage(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(("command", "usage"), [("replay", "replay RECORD [CONFIG]"), ("cache", "cache [CONFIG]")])
def test_help_names_the_arguments(command, usage, capsys):
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: tuner {usage} ")


def test_a_twin_is_not_written_over_something(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["twin", "sana", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_settings_on_the_command_line(project):
    config = str(project())
    arguments = ["train", config, "--max_train_steps", "1", "use_ema=true", "--gradient_checkpointing", "--seed=7"]
    assert main(arguments) == 0
    state = json.loads(Path("output/checkpoint-1/training_state.json").read_text())
    assert state["settings"]["use_ema"] is True
    assert state["seed"] == 7
    assert state["settings"]["pretrained_model_name_or_path"] == "twin"


def test_caches_can_be_filled_alone(project, capsys):
    config = str(project(cache_dir="cache"))
    assert main(["cache", config]) == 0
    assert not Path("output").exists()
    capsys.readouterr()
    assert main(["cache", config]) == 0
    assert "0 encoded, 6 found" in capsys.readouterr().err


def test_the_demonstration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tuner.cli.demo.STEPS", 40)
    assert main(["demo", "sana"]) == 0
    text = capsys.readouterr().out
    first, last = map(float, re.search(r"loss: ([\d.]+) in the first steps, ([\d.]+)", text).groups())
    assert last < first
    assert Path("demo/output/pytorch_lora_weights.safetensors").is_file()
    assert len(list(Path("demo/output/validation_images").glob("*.png"))) == 4
    Path("demo/.tuner-demo").unlink()
    assert main(["demo", "sana"]) == 1
    assert "no earlier demonstration" in capsys.readouterr().err


def test_the_supported_pythons_are_those_of_the_metadata():
    from importlib.metadata import metadata

    from tuner.cli.main import PYTHONS, unsupported_python

    (oldest, after) = (".".join(map(str, bound)) for bound in PYTHONS)
    assert metadata("tuner-core")["Requires-Python"] in (f">={oldest},<{after}", f"<{after},>={oldest}")
    assert [unsupported_python((3, minor)) is None for minor in range(8, 16)] == [False] * 2 + [True] * 4 + [False] * 2
    assert unsupported_python((3, 9)) == "Python 3.9 is not supported; tuner needs 3.10 or newer, and older than 3.14"


def test_the_extras_of_the_documentation_exist():
    from importlib.metadata import metadata

    extras = set(metadata("tuner-core").get_all("Provides-Extra"))
    assert {"cpu", "cuda", "cuda13", "datasets", "face", "parquet", "s3", "tensorboard"} <= extras


def test_the_old_script_trains_as_the_command_does(project):
    """config.env names the environment, the script finds and enters it, and its settings are those of config.json."""
    import shutil

    root = Path(__file__).parents[1]
    config = json.loads(project(max_train_steps=2, log_interval=1).read_text())
    assert main(["train"]) == 0
    Path("config.json").unlink()
    Path("config").mkdir()
    names = {"output_dir": "OUTPUT_DIR", "max_train_steps": "MAX_NUM_STEPS", "data_backend_config": "DATALOADER_CONFIG"}
    config["output_dir"] = "by-script"
    lines = [f"export {names.get(key, key.upper())}='{value}'" for key, value in config.items()]
    lines += [f'export VENV_PATH="{sys.prefix}"  # where tuner is installed', "export CONFIG_BACKEND=env"]
    Path("config/config.env").write_text("\n".join(lines) + "\n")
    shutil.copy(root / "train.sh", "train.sh")
    done = subprocess.run(["./train.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    losses = []
    for output in ("output", "by-script"):
        read = map(json.loads, (Path(output) / "metrics.jsonl").read_text().splitlines())
        losses.append([(line["step"], line["loss"]) for line in read if "loss" in line])
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
