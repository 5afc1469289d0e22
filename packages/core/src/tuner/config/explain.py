"""The story of one setting: what it means, who set it to what, and whether it is read."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tuner.config.dataset_file import INHERITED
from tuner.config.datasets import DatasetConfig
from tuner.config.keys import Given, all_settings, canonical_keys
from tuner.config.loading import LoadedConfig
from tuner.config.receipt import scrubbed, settings_receipt
from tuner.config.settings import field_extra
from tuner.errors import ConfigError, Problem


def explain(loaded: LoadedConfig, key: str) -> str:
    """Tell a setting's meaning, the values it was given from weakest to strongest, and what reads it.

    Args:
        loaded: A configuration that passed every check.
        key: A setting, in any spelling; also one of the data set file.

    Raises:
        ConfigError: There is no such setting.
    """
    plain = key.strip().lstrip("-")
    options = loaded.family.facts.options
    name = canonical_keys(options).get(plain)
    fields = DatasetConfig.model_fields
    in_datasets = next((field for field, info in fields.items() if plain in _names(field, info)), None)
    if name is None and in_datasets is None and plain not in loaded.unread:
        known = [*canonical_keys(options), *fields]
        close = difflib.get_close_matches(plain, known, n=1)
        remedy = f"did you mean {close[0]}?" if close else "`tuner schema` lists every key"
        raise ConfigError([Problem("no such setting", "command line", plain, remedy)])
    lines: list[str] = []
    if name is not None:
        lines += _of_the_run(loaded, name, options)
    elif in_datasets is None:
        lines.append(f"{plain}: {loaded.unread[plain]}")
    if in_datasets is not None:
        lines += _of_the_datasets(loaded, in_datasets)
    return "\n".join(lines)


def describe_type(info: FieldInfo) -> str:
    """Return the type of a setting as people write it, such as "true or false" or "a, b or c"."""
    return " or ".join(dict.fromkeys(_types(info.annotation)))


def _types(annotation: Any) -> Iterator[str]:
    import types
    import typing

    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _types(argument)
    elif origin is typing.Literal:
        yield ", ".join(str(choice) for choice in arguments)
    elif origin is typing.Annotated:
        yield from _types(arguments[0])
    elif origin in (list, tuple):
        yield f"list of {next(_types(arguments[0]))}" if arguments else "list"
    else:
        names = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "none"}
        yield names.get(annotation, "object" if origin is dict else getattr(annotation, "__name__", "object").lower())


def _names(field: str, info: FieldInfo) -> tuple[str, ...]:
    return field, *field_extra(info, "aliases", [])


def _of_the_run(loaded: LoadedConfig, name: str, options: type[BaseModel]) -> Iterator[str]:
    info = next(info for _, key, info in all_settings(options) if key == name)
    yield from _meaning(name, info)
    row = next(
        row
        for row in settings_receipt(loaded.config, loaded.given, loaded.family.facts, loaded.unread, loaded.secrets)
        if row.key == name
    )
    default = "none: it must be given" if info.is_required() else repr(info.get_default(call_default_factory=True))
    yield f"  default:  {default}"
    for given in _layers(loaded.given.get(name)):
        yield f"  given:    {scrubbed(name, given.value, loaded.secrets)!r} by {given.origin}"
    yield f"  in force: {row.value!r} from {row.origin}"
    yield f"  read:     {'no: ' + row.unread if row.unread else 'yes'}"


def _of_the_datasets(loaded: LoadedConfig, field: str) -> Iterator[str]:
    info = DatasetConfig.model_fields[field]
    yield from _meaning(f"{field} (data set file)", info)
    for dataset in (*loaded.config.datasets, *loaded.config.eval_datasets):
        value = scrubbed(field, getattr(dataset, field), loaded.secrets)
        origin = "given" if field in dataset.model_fields_set else "default"
        if field in INHERITED and field in dataset.model_fields_set:
            origin = "given, or taken over from the configuration"
        reason = loaded.unread.get(f"{dataset.id}: {field}")
        yield f"  {dataset.id}: {value!r} ({origin}){'; not read: ' + reason if reason else ''}"


def _meaning(name: str, info: FieldInfo) -> Iterator[str]:
    yield name
    yield f"  {info.description}"
    unit = field_extra(info, "unit", None)
    yield f"  type:     {describe_type(info)}{f', in {unit}' if unit else ''}"
    if aliases := field_extra(info, "aliases", []):
        yield f"  also:     {', '.join(aliases)}"
    for other, allowed in field_extra(info, "needs", {}).items():
        yield f"  needs:    {other} {describe_needs(allowed)}"


def describe_needs(allowed: tuple[Any, ...]) -> str:
    """Return what another setting must be, as "set", "not set" or its values."""
    if all(isinstance(choice, bool) for choice in allowed):
        return "to be set" if True in allowed else "not to be set"
    return "to be " + " or ".join(map(str, allowed))


def _layers(given: Given | None) -> list[Given]:
    layers: list[Given] = []
    while given is not None:
        layers.insert(0, given)
        given = given.before
    return layers
