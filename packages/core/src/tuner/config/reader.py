"""Reading users' files: JSON (trailing commas and comments forgiven, with a warning), TOML, YAML and variables."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.config.env_file import parse_env_file
from tuner.errors import ConfigError, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TOKENS = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n])*")
      | (?P<comment>//[^\n]*|\#[^\n]*|/\*.*?\*/)
      | (?P<comma>,)(?=(?:\s|//[^\n]*|\#[^\n]*|/\*.*?\*/)*[}\]])""",
    re.VERBOSE | re.DOTALL,
)


@dataclass
class Document:
    """A parsed file.

    Attributes:
        values: What it holds.
        warnings: What was forgiven, naming file and line.
    """

    values: Any
    warnings: list[str] = field(default_factory=list)


def read_document(path: Path) -> Document:
    """Read a JSON, TOML or YAML file or one of shell variables, by its suffix.

    Raises:
        ConfigError: The file cannot be read or parsed, or gives one key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(f"cannot be read: {error}", file=str(path))]) from error
    if path.suffix == ".toml":
        return Document(_parse_toml(text, path))
    if path.suffix in {".yaml", ".yml"}:
        return Document(_parse_yaml(text, path))
    if path.suffix == ".env":
        settings = parse_env_file(text, path)
        return Document(settings.values, settings.warnings)
    return _parse_json(text, path)


def _parse_json(text: str, path: Path) -> Document:
    cleaned, warnings = _forgive(text, path)
    try:
        values = json.loads(cleaned, object_pairs_hook=_unique_keys)
        json.dumps(values, ensure_ascii=False).encode()
        return Document(values, warnings)
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        message = f"holds {half}, which is half of a letter; JSON writes such letters as two escapes"
        raise ConfigError([Problem(message, file=str(path), remedy="write the letter itself")]) from error
    except json.JSONDecodeError as error:
        lines = text.splitlines()
        shown = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else "end of file"
        message = f"line {error.lineno}, column {error.colno}: {error.msg}: {shown[:80]!r}"
        raise ConfigError([Problem(f"is no valid JSON: {message}", file=str(path))]) from error
    except ValueError as error:
        raise ConfigError([Problem(str(error), file=str(path), remedy="keep one of them")]) from error


def _forgive(text: str, path: Path) -> tuple[str, list[str]]:
    """Blank out comments and trailing commas, keeping every other character at its line and column."""
    warnings: list[str] = []

    def blank(match: re.Match[str]) -> str:
        if match.lastgroup == "string":
            return match.group()
        line = text.count("\n", 0, match.start()) + 1
        what = "trailing comma" if match.lastgroup == "comma" else "comment"
        warnings.append(f"{path}: line {line}: {what} is not part of JSON; read as if it were absent")
        return re.sub(r"[^\n]", " ", match.group())

    return _TOKENS.sub(blank, text), warnings


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values and values[key] != value:
            raise ValueError(f"{key!r} is given twice, as {values[key]!r} and {value!r}")
        values[key] = value
    return values


def _parse_toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem(f"is no valid TOML: {error}", file=str(path))]) from error


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([Problem(f"is no valid YAML: {' '.join(str(error).split())}", file=str(path))]) from error
