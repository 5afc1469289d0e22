"""Settings on the command line: `--key value`, `--key=value`, `--flag`, `key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.config.keys import all_settings, canonical_keys
from tuner.config.settings import field_extra
from tuner.config.topics import TOPICS
from tuner.errors import ConfigError, Problem

_BOOLEAN_WORDS = {"true", "false", "yes", "no", "on", "off", "1", "0"}


@dataclass
class SettingsRequest:
    """A configuration file, or None for the one that is found, and settings that win over it."""

    config: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


def parse_settings(arguments: Sequence[str]) -> SettingsRequest:
    """Parse the arguments of a command that reads a configuration.

    Raises:
        ConfigError: More than one configuration is named.
    """
    request = SettingsRequest()
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            if equals:
                request.overrides[key] = value
            elif remaining and _is_value_of(key, remaining[0]):
                request.overrides[key] = remaining.pop(0)
            else:
                request.overrides[key] = True
        elif "=" in argument and not Path(argument).exists():
            key, _, value = argument.partition("=")
            request.overrides[key] = value
        elif request.config is None:
            request.config = argument
        else:
            problem = Problem(f"{argument!r} is a second configuration beside {request.config!r}", "command line")
            raise ConfigError([problem])
    return request


def _is_value_of(key: str, following: str) -> bool:
    if following.startswith("--"):
        return False
    canonical = canonical_keys().get(key)
    is_flag = any(name == canonical and setting.annotation is bool for _, name, setting in all_settings())
    return not is_flag or following.lower() in _BOOLEAN_WORDS


def settings_help(command: str, summary: str) -> str:
    """Return the help text of a command that reads a configuration: every setting, by topic."""
    lines = [
        f"usage: tuner {command} [CONFIG] [--key value | key=value ...]",
        "",
        f"{summary}. CONFIG is a JSON, TOML or YAML file; without it, config.json (.toml, .yaml)",
        "is looked for in the working directory, then in config/. Settings given here win over the file.",
    ]
    for name, model in TOPICS.items():
        lines += ["", f"{name}: {(model.__doc__ or '').splitlines()[0]}"]
        for key, setting in model.model_fields.items():
            default = "required" if setting.is_required() else f"default {_shown(setting.default)}"
            unit = field_extra(setting, "unit", None)
            lines.append(f"  --{key}")
            lines.append(f"      {setting.description} ({', '.join(part for part in (unit, default) if part)})")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "none" if value in (None, ()) else str(value)
