"""Placeholders in strings of users' files: {env:NAME} anywhere, {model_family} and others in the data set file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.errors import Problem

_SHORTEST_SECRET = 4
"""Characters; hiding shorter texts would only garble what is shown."""

_VARIABLE = re.compile(r"\{env:([^{}]*)\}")


@dataclass
class Expansion:
    """What became of a file's strings.

    Attributes:
        problems: Variables that are not set.
        secrets: Values that came from the environment; they are written nowhere.
    """

    problems: list[Problem] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)

    def expand(self, value: Any, origin: str, key: str | None = None, names: Mapping[str, str] | None = None) -> Any:
        """Return `value` with its placeholders replaced, through lists and objects.

        Args:
            value: Anything that JSON holds.
            origin: The file, for errors.
            key: The setting, for errors.
            names: Further placeholders, such as "model_family" -> "toy". Others in braces stay as they are.
        """
        if isinstance(value, str):
            return self._expand_text(value, origin, key, names or {})
        if isinstance(value, list):
            return [self.expand(item, origin, key, names) for item in value]
        if isinstance(value, dict):
            return {name: self.expand(item, origin, key or str(name), names) for name, item in value.items()}
        return value

    def _expand_text(self, text: str, origin: str, key: str | None, names: Mapping[str, str]) -> str:
        def variable(match: re.Match[str]) -> str:
            value = os.environ.get(match[1].strip())
            if value is None:
                message = f"{match[0]} stands for the environment variable {match[1].strip()!r}, which is not set"
                self.problems.append(Problem(message, origin, key, "set it, or write the value itself"))
                return match[0]
            if len(value) >= _SHORTEST_SECRET:
                self.secrets.add(value)
            return value

        for name, replacement in names.items():
            text = text.replace(f"{{{name}}}", replacement)
        return _VARIABLE.sub(variable, text)
