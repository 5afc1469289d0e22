"""The public keys: flat names, their aliases and their topics; building topics from flat values."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tuner.config.settings import field_extra
from tuner.config.topics import TOPICS
from tuner.errors import Problem


@dataclass(frozen=True)
class Given:
    """A value that somebody gave.

    Attributes:
        value: As it was read.
        origin: File, "command line" or "family".
    """

    value: Any
    origin: str


def all_settings(options: type[BaseModel] | None = None) -> Iterator[tuple[str, str, FieldInfo]]:
    """Yield (topic, key, field) of every setting, those of a family's `options` last, as topic "family"."""
    models: dict[str, type[BaseModel]] = dict(TOPICS)
    if options is not None:
        models["family"] = options
    for topic, model in models.items():
        for key, field in model.model_fields.items():
            yield topic, key, field


def canonical_keys(options: type[BaseModel] | None = None) -> dict[str, str]:
    """Map every accepted spelling, aliases included, to its setting."""
    names: dict[str, str] = {}
    for _, key, field in all_settings(options):
        for name in (key, *field_extra(field, "aliases", [])):
            names[name] = key
    return names


def collect(
    sources: list[tuple[str, Mapping[str, Any]]], options: type[BaseModel] | None
) -> tuple[dict[str, Given], list[Problem]]:
    """Merge flat mappings, later ones winning, under canonical keys.

    Args:
        sources: (origin, values) from weakest to strongest.
        options: The family's own settings, or None while the family is unknown.
    """
    names = canonical_keys(options)
    given: dict[str, Given] = {}
    problems: list[Problem] = []
    for origin, values in sources:
        here: dict[str, Any] = {}
        for spelling, value in values.items():
            plain = str(spelling).lstrip("-")
            key = names.get(plain)
            if key is None:
                problems.append(unknown_key(plain, origin, names))
            elif key in here and here[key] != value:
                problems.append(
                    Problem(
                        f"given twice, as {here[key]!r} and {value!r} (spelt {spelling!r})",
                        file=origin,
                        key=key,
                        remedy="keep one of them",
                    )
                )
            else:
                here[key] = value
        given.update({key: Given(value, origin) for key, value in here.items()})
    return given, problems


def unknown_key(name: str, origin: str, known: Mapping[str, Any] | list[str]) -> Problem:
    """Describe a key that does not exist, with the nearest one that does."""
    close = difflib.get_close_matches(name, list(known), n=1)
    remedy = f"did you mean {close[0]}?" if close else "`tuner schema` lists every key"
    return Problem("no such setting", file=origin, key=name, remedy=remedy)


def build_topics(given: Mapping[str, Given], options: type[BaseModel]) -> tuple[dict[str, Any], list[Problem]]:
    """Validate the values topic by topic. A topic with a problem is left out of the result."""
    built: dict[str, Any] = {}
    problems: list[Problem] = []
    for topic, model in {**TOPICS, "family": options}.items():
        values = {key: given[key].value for key in model.model_fields if key in given}
        try:
            built[topic] = model.model_validate(values)
        except ValidationError as error:
            for problem in describe_errors(error, origin="configuration"):
                origin = given[problem.key].origin if problem.key and problem.key in given else problem.file
                problems.append(Problem(problem.message, origin, problem.key, problem.remedy))
    return built, problems


def describe_errors(error: ValidationError, origin: str, prefix: str = "") -> list[Problem]:
    """Turn pydantic's errors into problems that show the value and the rule."""
    problems = []
    for item in error.errors(include_url=False):
        names = [str(part) for part in item["loc"]]
        key = names[0] if names else None
        shown = ".".join(names)
        if item["type"] == "missing":
            message = "is required"
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
        elif item["type"] == "extra_forbidden":
            message = "no such setting"
        else:
            message = f"{item['input']!r} is not accepted: {item['msg'][0].lower()}{item['msg'][1:]}"
        label = f"{prefix}{shown}" if prefix or len(names) > 1 else key
        problems.append(Problem(message, origin, label or None))
    return problems
