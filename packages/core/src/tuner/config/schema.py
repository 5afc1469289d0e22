"""JSON schemas of users' files, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, create_model

from tuner.config.datasets import DatasetConfig, MaskConfig, TextCacheConfig
from tuner.config.keys import all_settings
from tuner.config.lycoris import LycorisConfig
from tuner.config.settings import field_extra

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_OURS = ("unit", "aliases", "needs", "unread", "known")
"""What a setting tells us and no editor needs to know."""

_TEXTS = {
    "integer": r"^\s*[-+]?\d+(\.0*)?\s*$|^\s*$|^\{env:",
    "number": r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$|^\s*$|^\{env:",
    "boolean": r"^\s*([Tt]rue|[Ff]alse|TRUE|FALSE|1|0|[Yy]es|[Nn]o|[Oo]n|[Oo]ff|[YyNnTtFf])?\s*$|^\{env:",
}
"""Type -> the texts that stand for it, or for "not set"."""

_OF_NUMBERS = {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum"}


def config_schema(families: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return the JSON schema of a configuration file.

    Args:
        families: The own settings of each installed family, by its name. They are all accepted by the schema.
    """
    fields: dict[str, Any] = {}
    for options in (None, *families.values()):
        for _, key, field in all_settings(options):
            fields.setdefault(key, (field.annotation, field))
    aliases = {
        alias: key
        for options in (None, *families.values())
        for _, key, field in all_settings(options)
        for alias in field_extra(field, "aliases", [])
    }
    schema = create_model("TunerConfiguration", **fields).model_json_schema()
    _open_up(schema, aliases)
    return {"$schema": _DRAFT, **schema}


def datasets_schema() -> dict[str, Any]:
    """Return the JSON schema of a data set file."""
    entries: list[dict[str, Any]] = []
    shared: dict[str, Any] = {}
    for model in (DatasetConfig, MaskConfig, TextCacheConfig):
        schema = model.model_json_schema()
        fields = model.model_fields.items()
        aliases = {alias: key for key, field in fields for alias in field_extra(field, "aliases", [])}
        kind = schema["properties"]["dataset_type"]
        _open_up(schema, aliases)
        shared.update(schema.pop("$defs", {}))
        entries.append(schema)
        if model is not DatasetConfig:
            # Without it the entry would be one of pictures.
            schema["required"] = ["dataset_type"]
            schema["properties"]["dataset_type"] = {"const": kind["const"]}
    return {"$schema": _DRAFT, "$defs": shared, "type": "array", "items": {"anyOf": entries}}


def lycoris_schema() -> dict[str, Any]:
    """Return the JSON schema of a LyCORIS file."""
    schema = LycorisConfig.model_json_schema(by_alias=False)
    required = schema.get("required", [])
    _open_up(schema, {})
    return {"$schema": _DRAFT, **schema, "required": required}


def _open_up(schema: dict[str, Any], aliases: Mapping[str, str]) -> None:
    """Allow what files may write besides a setting's own name and type: dashes, aliases, texts for numbers."""
    for definition in (schema, *schema.get("$defs", {}).values()):
        definition["properties"] = {
            key: _accept_texts({name: item for name, item in field.items() if name not in _OURS})
            for key, field in definition.get("properties", {}).items()
        }
    properties: dict[str, Any] = schema["properties"]
    properties.update({alias: properties[key] for alias, key in aliases.items()})
    properties.update({f"--{key}": field for key, field in list(properties.items())})
    schema["additionalProperties"] = False
    # A key may stand with dashes, which "required" cannot express.
    schema.pop("required", None)


def _accept_texts(field: dict[str, Any]) -> dict[str, Any]:
    """Allow numbers and booleans to be written as strings, and every setting to be left blank, as in many files."""
    choices = [_accept_texts(choice) for choice in field.get("anyOf", [])]
    if choices:
        blank = {"const": ""}
        return {**field, "anyOf": [*choices, blank]}
    if field.get("type") in _TEXTS:
        plain = {key: value for key, value in field.items() if key in _OF_NUMBERS}
        rest = {key: value for key, value in field.items() if key not in plain}
        return {**rest, "anyOf": [plain, {"type": "string", "pattern": _TEXTS[field["type"]]}]}
    if "enum" in field:
        plain = {key: field[key] for key in ("enum", "type") if key in field}
        rest = {key: value for key, value in field.items() if key not in plain}
        return {**rest, "anyOf": [plain, {"const": ""}, {"type": "string", "pattern": r"^\{env:"}]}
    if field.get("type") == "array":
        return {**{key: value for key, value in field.items() if key not in ("type", "items")}, "anyOf": [
            {"type": "array", "items": _accept_texts(field.get("items", {}))}, {"type": "string"},
        ]}  # fmt: skip
    return field
