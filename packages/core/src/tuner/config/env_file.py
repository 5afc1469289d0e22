"""The oldest form of a configuration: a shell file of variables, as `config.env`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.config.arguments import parse_settings
from tuner.config.keys import canonical_keys
from tuner.errors import ConfigError, Problem

_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_]\w*)(?P<operator>\+?=)(?P<value>.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")

_KEYS = {
    "BASE_DIR": "output_dir",
    "CHECKPOINTING_LIMIT": "checkpoints_total_limit",
    "CHECKPOINTING_STEPS": "checkpoint_step_interval",
    "ACCELERATE_CONFIG_PATH": "accelerate_config",
    "DATALOADER_CONFIG": "data_backend_config",
    "HUB_MODEL_NAME": "hub_model_id",
    "LR_SCHEDULE": "lr_scheduler",
    "MAX_NUM_STEPS": "max_train_steps",
    "MINIMUM_RESOLUTION": "minimum_image_size",
    "MODEL_NAME": "pretrained_model_name_or_path",
    "NUM_EPOCHS": "num_train_epochs",
    "PUSH_CHECKPOINTS": "push_checkpoints_to_hub",
    "RESUME_CHECKPOINT": "resume_from_checkpoint",
    "TRAINER_DYNAMO_BACKEND": "dynamo_backend",
    "TRAINING_DYNAMO_BACKEND": "dynamo_backend",
    "TRAINING_NUM_MACHINES": "num_machines",
    "TRAINING_NUM_PROCESSES": "num_processes",
    "TRAINING_SEED": "seed",
    "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing",
}
"""Variables whose setting has another name; every other variable is called like its setting."""

_SHELL = {"VENV_PATH", "ENV", "SIMPLETUNER_ENV", "SIMPLETUNER_ENVIRONMENT", "CONFIG_BACKEND", "CONFIG_PATH"}
"""Variables that speak to the shell or to the search for the configuration."""

_MORE_ARGUMENTS = "TRAINER_EXTRA_ARGS"


@dataclass
class EnvSettings:
    """What a file of variables sets.

    Attributes:
        values: Flat settings.
        warnings: What was passed over, naming file and line.
    """

    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def parse_env_file(text: str, path: Path) -> EnvSettings:
    """Read `export NAME=value` lines. Nothing is executed: of the shell, only quotes, `+=` and ${NAME} are understood.

    Raises:
        ConfigError: A line is no assignment, or its quotes do not match.
    """
    variables: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in _logical_lines(text):
        name, value = _assignment(line, number, path, variables)
        variables[name] = value
        lines[name] = number
    result = EnvSettings()
    known = canonical_keys()
    for name, value in variables.items():
        key = _KEYS.get(name, name.lower())
        if name == _MORE_ARGUMENTS:
            result.values.update(_more(value, path))
        elif key in known:
            result.values.setdefault(key, value)
        elif name not in _SHELL:
            result.warnings.append(f"{path}: line {lines[name]}: {name} stands for no setting; it is passed over")
    return result


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Return (number, line) of lines that say something; a backslash at the end joins a line to the next."""
    joined: list[tuple[int, str]] = []
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        joined.append((first, (pending + line).strip()))
        pending = ""
    joined.append((first, pending.strip()))
    return [(number, line) for number, line in joined if line and not line.startswith("#")]


def _assignment(line: str, number: int, path: Path, variables: dict[str, str]) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    try:
        words = shlex.split(match["value"], comments=True) if match else []
    except ValueError as error:
        raise ConfigError([Problem(f"line {number}: {error}: {line[:80]!r}", str(path))]) from error
    if match is None:
        problem = Problem(f"line {number} is no assignment: {line[:80]!r}", str(path), remedy="write NAME=value")
        raise ConfigError([problem])
    value = " ".join(words)
    if not match["value"].lstrip().startswith("'"):
        value = _REFERENCE.sub(lambda found: variables.get(found[1] or found[2], ""), value)
    if match["operator"] == "+=":
        value = f"{variables.get(match['name'], '')} {value}".strip()
    return match["name"], value


def _more(value: str, path: Path) -> dict[str, Any]:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ConfigError([Problem(f"{error}: {value[:80]!r}", str(path), _MORE_ARGUMENTS)]) from error
    request = parse_settings(words)
    if request.config is not None:
        problem = Problem(f"{request.config!r} is no setting", str(path), _MORE_ARGUMENTS, "write --key=value")
        raise ConfigError([problem])
    return request.overrides
