"""Which configuration is read, and the oldest form of one."""

import pytest

from tuner.config.discovery import find_config
from tuner.config.env_file import parse_env_file
from tuner.config.loading import load_config
from tuner.errors import ConfigError


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return make


def found(**variables):
    environment = variables.pop("environment", None)
    path = find_config(variables.pop("path", None), environment, variables)
    return None if path is None else path.as_posix()


def test_the_working_directory_comes_before_config_and_json_before_the_others(places):
    order = ["config.json", "config.toml", "config.yaml", "config.env"]
    order = [*order, *(f"config/{name}" for name in order)]
    for name in reversed(order):
        places(name)
        assert found() == name


def test_an_environment_names_a_folder_of_its_own(places):
    places("config.json", "config/blue/config.toml", "config/red/config.json")
    assert found(environment="blue") == "config/blue/config.toml"
    assert found(SIMPLETUNER_ENV="red", ENV="blue") == "config/red/config.json"
    assert found(SIMPLETUNER_ENVIRONMENT="blue", SIMPLETUNER_ENV="red") == "config/blue/config.toml"
    assert found(ENV="red") == "config/red/config.json"
    assert found(ENV="/etc/shrc") == "config.json"  # what shells use the variable for
    assert found(SIMPLETUNER_ENV="default") == "config.json"
    with pytest.raises(ConfigError, match=r"looked for config/green/config\.json"):
        found(environment="green")


def test_the_backend_chooses_among_forms(places):
    places("config.json", "config/config.toml", "config/config.env")
    assert found(CONFIG_BACKEND="toml") == "config/config.toml"
    assert found(CONFIG_BACKEND="env") == "config/config.env"
    assert found(CONFIG_BACKEND="JSON") == "config.json"
    assert found(CONFIG_BACKEND="cmd") is None
    with pytest.raises(ConfigError, match=r"'ini' is no kind of configuration \(one of: json, toml, yaml, env, cmd\)"):
        found(CONFIG_BACKEND="ini")


def test_config_path_wins_over_the_search_and_needs_no_suffix(places):
    places("config.json", "elsewhere/mine.toml", "other/config.json")
    assert found(CONFIG_PATH="elsewhere/mine.toml") == "elsewhere/mine.toml"
    assert found(CONFIG_PATH="elsewhere/mine") == "elsewhere/mine.toml"
    assert found(CONFIG_PATH="other") == "other/config.json"
    assert found(CONFIG_PATH="other", path="config.json") == "config.json"
    with pytest.raises(ConfigError, match=r"missing\.json"):
        found(CONFIG_PATH="missing")


def test_nothing_found_lists_what_was_tried(places):
    with pytest.raises(ConfigError) as caught:
        found()
    for name in ("config.json", "config.env", "config/config.json", "config/config.env"):
        assert name in str(caught.value)


ENV = """
# the oldest form
export MODEL_TYPE='lora'
export MODEL_FAMILY="toyfamily.plugin"
export RUNS=runs
export OUTPUT_DIR="${RUNS}/first"   # with a comment
export MAX_NUM_STEPS=10
export NUM_EPOCHS=0
export OPTIMIZER=optimi-adamw
export DATALOADER_CONFIG=multidatabackend.json
export USE_GRADIENT_CHECKPOINTING=false
export VALIDATION_PROMPT='costs $5'
export TRAINING_NUM_PROCESSES=1
export TRAINER_EXTRA_ARGS="--lora_rank=4"
export TRAINER_EXTRA_ARGS+=" --use_ema --validation_negative_prompt='dark, blurry'"
export VENV_PATH=.venv
"""


def test_a_file_of_variables_is_read_without_a_shell(project):
    (project / "config.env").write_text(ENV)
    loaded = load_config(project / "config.env")
    config = loaded.config
    assert config.model.output_dir.as_posix() == "runs/first"
    assert config.optimisation.max_train_steps == 10
    assert config.optimisation.gradient_checkpointing is False
    assert config.validation.validation_prompt == "costs $5"
    assert (config.adapter.lora_rank, config.ema.use_ema) == (4, True)
    assert config.validation.validation_negative_prompt == "dark, blurry"
    assert [line for line in loaded.warnings if "RUNS" in line] == [
        f"{project / 'config.env'}: line 5: RUNS stands for no setting; it is passed over"
    ]


def test_lines_that_are_no_assignments_are_refused(tmp_path):
    for text in ("if true; then", "A='open", "just words"):
        with pytest.raises(ConfigError, match="line 1"):
            parse_env_file(text, tmp_path / "config.env")


def test_values_are_never_executed(tmp_path):
    parsed = parse_env_file(f'OUTPUT_DIR="$(touch {tmp_path}/pwned)"', tmp_path / "config.env")
    assert parsed.values == {"output_dir": f"$(touch {tmp_path}/pwned)"}
    assert not (tmp_path / "pwned").exists()


def test_settings_may_come_from_the_command_line_alone(project, write_config):
    import json

    values = json.loads(write_config().read_text())
    assert load_config(None, values).config.optimisation.max_train_steps == 10
