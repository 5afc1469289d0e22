"""Files as users of the quickstarts have them, unedited: read, checked, and in accordance with the schemas."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jsonschema
import pytest
from PIL import Image

from tuner.cli.main import main
from tuner.config.loading import load_config
from tuner.config.reader import read_document

TUNER = [sys.executable, "-c", "import sys; from tuner.cli.main import main; sys.exit(main())"]
FILES = Path(__file__).parent / "user_files"
FAMILIES = ("omnigen", "auraflow", "hidream", "cosmos2image")
FOLDERS = ("datasets/pseudo-camera-10k", "datasets/dreambooth-subject", "datasets/test_datasets/squares")
SIZES = [(1100, 1100), (1400, 1000), (1024, 1536)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Lay a family's files out as the quickstarts say, beside folders of pictures."""
    monkeypatch.chdir(tmp_path)
    for variable in ("CONFIG_BACKEND", "CONFIG_PATH", "SIMPLETUNER_ENV", "SIMPLETUNER_ENVIRONMENT"):
        monkeypatch.delenv(variable, raising=False)
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True)
        for number, size in enumerate(SIZES):
            Image.new("RGB", size, (80 * number, 90, 120)).save(Path(folder) / f"a_picture_of_thing_{number}.png")

    def lay_out(family):
        shutil.copytree(FILES / family, tmp_path / "config" / family)
        for name in ("config.json", "lycoris_config.json"):
            if (FILES / family / name).exists():
                shutil.copy(FILES / family / name, tmp_path / "config")
        return tmp_path

    return lay_out


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def check(capsys):
    """Run `tuner check` in this process."""

    def run(*arguments):
        code = main(["check", *arguments])
        return Done(code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_of_a_family_pass_a_check_unedited(place, check, family):
    place(family)
    done = check()
    assert done.returncode == 0, done.stderr + done.stdout
    assert "not accepted" not in done.stderr + done.stdout
    assert "dreambooth-subject" in done.stdout


def test_sana_has_no_configuration_file_so_its_settings_come_as_arguments(place, check, monkeypatch):
    """The keys that its quickstart names in its text, in both spellings."""
    place("sana")
    monkeypatch.setenv("CONFIG_BACKEND", "cmd")
    settings = [
        "model_family=sana", "pretrained_model_name_or_path=terminusresearch/sana-1.6b-1024px",
        "--output_dir", "output", "train_batch_size=1", "validation_resolution=1024x1024", "--validation_guidance=4.5",
        "validation_num_inference_steps=50", "--use_ema", "optimizer=adamw_bf16", "mixed_precision=bf16",
        "--gradient_checkpointing", "--gradient_checkpointing_interval=2", "flow_schedule_shift=3",
        "--validation_preview", "--validation_preview_steps=5", "push_to_hub=false", "report_to=none",
        "--quantize_via=cpu", "vae_cache_disable=true", "max_train_steps=10", "learning_rate=1e-5",
        "user_prompt_library=config/sana/user_prompt_library.json",
        "data_backend_config=config/sana/multidatabackend.json",
    ]  # fmt: skip
    done = check("--model_type=lora", *settings)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "no webhook is there to send previews to" in done.stdout + done.stderr
    full = check("--model_type=full", *settings)
    assert full.returncode == 2
    assert "1 problem found" in full.stderr
    assert "is_regularisation_data: model_type full changes the base model" in full.stderr


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dashes", [False, True])
def test_the_fragments_of_the_quickstarts_are_understood_in_both_spellings(place, family, dashes):
    folder = place(family)
    fragment = json.loads((FILES / family / "config_fragment_validation_preview.json").read_text())
    fragment["user_prompt_library"] = f"config/{family}/user_prompt_library.json"
    path = folder / "config" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, **{f"--{key}" if dashes else key: value for key, value in fragment.items()}}))
    loaded = load_config(path)
    assert loaded.config.validation.validation_preview is True
    assert loaded.unread["validation_preview"].startswith("no webhook is there")
    assert len(loaded.config.prompts) == 3
    assert any("<token>" in line for line in loaded.warnings)


def test_a_data_set_file_in_the_other_usual_place_is_found_and_named(place, check):
    folder = place("auraflow")
    (folder / "config" / "auraflow" / "multidatabackend.json").rename(folder / "config" / "multidatabackend.json")
    loaded = load_config(folder / "config" / "config.json")
    assert [dataset.id for dataset in loaded.config.datasets] == ["pseudo-camera-10k-auraflow", "dreambooth-subject"]
    assert any("read" in line and "multidatabackend.json instead" in line for line in loaded.warnings)
    (folder / "config" / "multidatabackend.json").unlink()
    assert check().returncode == 2


def schemas():
    found = {}
    for kind in ("config", "datasets", "lycoris"):
        shown = subprocess.run([*TUNER, "schema", kind], capture_output=True, text=True, check=True)
        found[kind] = json.loads(shown.stdout)
        jsonschema.Draft202012Validator.check_schema(found[kind])
    return found


def kind_of(path):
    if path.name.startswith("multidatabackend"):
        return "datasets"
    return "lycoris" if path.name.startswith("lycoris") else "config"


def test_the_schemas_accept_these_files_and_refuse_mistakes():
    validators = {kind: jsonschema.Draft202012Validator(schema) for kind, schema in schemas().items()}
    files = [path for path in sorted(FILES.glob("*/*.json")) if not path.name.startswith("user_prompt")]
    assert len(files) == 20
    for path in files:
        errors = [error.message for error in validators[kind_of(path)].iter_errors(read_document(path).values)]
        assert errors == [], path
    for name in ("adamw_8bit", "optimi-ranger", "torch.optim.SGD"):
        assert validators["config"].is_valid({"optimizer": name})
    mistakes = {
        "config": [
            {"learning_rte": 1},
            {"train_batch_size": "many"},
            {"model_type": "loro"},
            {"--seed": []},
            {"optimizer": "sgd"},
        ],
        "datasets": [[{"id": "a", "instance_data_dir": "x", "resolutoin": 1}], [{"id": "a", "repeats": "few"}]],
        "lycoris": [{"algo": "lokr"}, {"algo": "lokr", "multiplier": "x", "linear_alpha": 1}],
    }
    for kind, contents in mistakes.items():
        for content in contents:
            assert not validators[kind].is_valid(content), content
