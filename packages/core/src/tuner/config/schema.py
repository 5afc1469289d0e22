"""The JSON schema of the configuration, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, create_model

from tuner.config.keys import all_settings
from tuner.config.settings import field_extra


def config_schema(families: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return the JSON schema of a configuration file.

    Args:
        families: The own settings of each installed family, by its name. They are all accepted by the schema.
    """
    fields: dict[str, Any] = {}
    for options in (None, *families.values()):
        for _, key, field in all_settings(options):
            fields.setdefault(key, (field.annotation, field))
    schema = create_model("TunerConfiguration", **fields).model_json_schema()
    properties: dict[str, Any] = schema["properties"]
    for options in (None, *families.values()):
        for _, key, field in all_settings(options):
            for alias in field_extra(field, "aliases", []):
                properties[alias] = properties[key]
    for key in list(properties):
        properties[f"--{key}"] = properties[key]
        properties[key] = _accept_strings(properties[key])
        properties[f"--{key}"] = properties[key]
    schema["additionalProperties"] = False
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    # A key may stand with dashes, which "required" cannot express.
    schema.pop("required", None)
    return schema


def _accept_strings(field: dict[str, Any]) -> dict[str, Any]:
    """Allow numbers and booleans to be written as strings, as they are in many files."""
    if field.get("type") in {"integer", "number", "boolean"}:
        plain = {
            key: value for key, value in field.items() if key in {"type", "minimum", "maximum", "exclusiveMinimum"}
        }
        rest = {key: value for key, value in field.items() if key not in plain}
        return {**rest, "anyOf": [plain, {"type": "string"}]}
    return field
