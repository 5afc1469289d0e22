"""The public keys: flat names, their aliases and their topics; building topics from flat values."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tuner.config.partial import partial_topic
from tuner.config.settings import HIDDEN, Topic, field_extra, is_secret
from tuner.config.topics import TOPICS
from tuner.errors import Problem

_RENAMED = {"disable_vae_cache": "vae_cache_disable"}
"""Keys that mean nothing any more -> what took their place."""


@dataclass(frozen=True)
class Given:
    """A value that somebody gave.

    Attributes:
        value: As it was read.
        origin: File, "command line", "family" or "optimizer".
        before: What it replaced, from a weaker origin.
    """

    value: Any
    origin: str
    before: Given | None = None


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
            if plain in _RENAMED:
                problems.append(Problem("is no longer a setting", origin, plain, f"write {_RENAMED[plain]} instead"))
            elif key is None:
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
        given.update({key: Given(value, origin, given.get(key)) for key, value in here.items()})
    return given, problems


def unknown_key(name: str, origin: str, known: Mapping[str, Any] | list[str]) -> Problem:
    """Describe a key that does not exist, with the nearest one that does."""
    close = difflib.get_close_matches(name, list(known), n=1)
    remedy = f"did you mean {close[0]}?" if close else "`tuner schema` lists every key"
    return Problem("no such setting", file=origin, key=name, remedy=remedy)


def build_topics(given: Mapping[str, Given], options: type[BaseModel]) -> tuple[dict[str, Any], list[Problem]]:
    """Validate the values topic by topic.

    A topic with a problem is a partial one, see `tuner.config.partial`; a family's is left out of the result.
    """
    built: dict[str, Any] = {}
    problems: list[Problem] = []
    for topic, model in {**TOPICS, "family": options}.items():
        values = {key: given[key].value for key in model.model_fields if key in given}
        try:
            built[topic] = model.model_validate(values)
        except ValidationError as error:
            for problem in describe_errors(error, "configuration", model):
                origin = given[problem.key].origin if problem.key and problem.key in given else problem.file
                problems.append(Problem(problem.message, origin, problem.key, problem.remedy))
            if issubclass(model, Topic):
                built[topic] = partial_topic(model, values, {str(item["loc"][0]) for item in error.errors()})
    return built, problems


def describe_errors(
    error: ValidationError, origin: str, model: type[BaseModel] | None = None, prefix: str = ""
) -> list[Problem]:
    """Turn pydantic's errors into problems that show the value and the rule; one problem per setting.

    Args:
        error: What `model` raised.
        origin: The file, for the problems.
        model: Knows which values are refused for being not served yet.
        prefix: Stands before the key, such as the number of an entry.
    """
    problems: dict[tuple[str, str], Problem] = {}
    for item in error.errors(include_url=False, include_context=True):
        names = [str(part) for part in item["loc"]]
        key = names[0] if names else None
        shown = ".".join(names)
        label = f"{prefix}{shown}" if prefix or len(names) > 1 else key
        message = _message_of(item, model.model_fields.get(key or "") if model else None)
        # A setting that may be of several types gives an error for each of them, and the first says enough.
        problems.setdefault((key or "", repr(item["input"])), Problem(message, origin, label or None))
    return list(problems.values())


def _message_of(item: Any, field: FieldInfo | None) -> str:
    if item["type"] == "missing":
        return "is required"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "extra_forbidden":
        return "no such setting"
    value = item["input"]
    rule = f"{item['msg'][0].lower()}{item['msg'][1:]}"
    if field is not None and isinstance(value, str) and value in field_extra(field, "known", []):
        return f"{value!r} is known, but not served yet: {rule}"
    text = HIDDEN if any(is_secret(str(name)) for name in item["loc"]) else repr(value)
    return f"{text if len(text) <= 200 else text[:200] + '...'} is not accepted: {rule}"
