"""The help text of commands that read a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.config.settings import field_extra
from tuner.config.topics import TOPICS


def settings_help(command: str, summary: str, options: Mapping[str, str]) -> str:
    """Return the help text of a command that reads a configuration: its own options, and every setting by topic.

    Args:
        command: Its name.
        summary: What it does.
        options: The command's options that are no settings -> what each one does; capitals name an argument that comes
            before the configuration.
    """
    arguments = "".join(f" {option}" for option in options if option.isupper())
    lines = [
        f"usage: tuner {command}{arguments} [CONFIG] [--key value | key=value ...]",
        "",
        f"{summary}. CONFIG is a JSON, TOML or YAML file or a config.env; without it, config.json",
        "(.toml, .yaml, .env) is looked for in the working directory, then in config/;",
        "with --env NAME, in config/NAME. Settings given here win over the file.",
    ]
    lines += [line for option, meaning in options.items() for line in ("", f"  {option}", f"      {meaning}")]
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
