"""Settings as arguments: `--key value`, `--key=value`, `--flag`, `key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.config.keys import all_settings, canonical_keys
from tuner.errors import ConfigError, Problem

_BOOLEAN_WORDS = {"true", "false", "yes", "no", "on", "off", "1", "0"}


@dataclass
class SettingsRequest:
    """What a command line asks for.

    Attributes:
        config: A configuration file or folder, or None for the one that is found.
        environment: Sub-folder of config/ to find it in, or None.
        overrides: Settings that win over the file.
    """

    config: str | None = None
    environment: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


def parse_settings(arguments: Sequence[str]) -> SettingsRequest:
    """Parse the arguments of a command that reads a configuration.

    Raises:
        ConfigError: More than one configuration is named, or a setting twice with two values.
    """
    request = SettingsRequest()
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            if equals:
                _note(request, key, value)
            elif remaining and _is_value_of(key, remaining[0]):
                _note(request, key, remaining.pop(0))
            else:
                _note(request, key, True)
        elif "=" in argument and not Path(argument).exists():
            key, _, value = argument.partition("=")
            _note(request, key, value)
        elif request.config is None:
            request.config = argument
        else:
            problem = Problem(f"{argument!r} is a second configuration beside {request.config!r}", "command line")
            raise ConfigError([problem])
    return request


def _note(request: SettingsRequest, key: str, value: Any) -> None:
    if key == "env":
        request.environment = str(value)
        return
    before = request.overrides.setdefault(key, value)
    if before != value:
        raise ConfigError(
            [Problem(f"given twice, as {before!r} and {value!r}", "command line", key, remedy="keep one of them")]
        )


def _is_value_of(key: str, following: str) -> bool:
    if following.startswith("--"):
        return False
    canonical = canonical_keys().get(key)
    is_flag = any(name == canonical and setting.annotation is bool for _, name, setting in all_settings())
    return not is_flag or following.lower() in _BOOLEAN_WORDS
