"""How a setting is declared: a typed field with default, unit, description and the condition that makes it count."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

NOT_YET = "not served yet"
"""Begins the reason of a setting whose feature is still to come."""


HIDDEN = "(hidden)"
"""Stands for a value that must not be shown."""

_SECRET_KEY = re.compile(r"token$|secret|password|access_key|api_key|webhook|callback_url", re.IGNORECASE)


def is_secret(key: str) -> bool:
    """Whether a setting's value must not be shown."""
    return bool(_SECRET_KEY.search(key))


def without_secrets(text: str, secrets: Collection[str]) -> str:
    """Hide every text of `secrets` where it occurs in another."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def setting(
    default: Any,
    description: str,
    *,
    unit: str | None = None,
    aliases: tuple[str, ...] = (),
    needs: Mapping[str, tuple[Any, ...]] | None = None,
    unread: str | Mapping[Any, str] | None = None,
    known: tuple[str, ...] = (),
    **constraints: Any,
) -> Any:
    """Declare a setting.

    Args:
        default: Default value, or `...` for a setting that must be given.
        description: One sentence for people.
        unit: Unit of a number, such as "pixels" or "steps".
        aliases: Other names under which files may give it.
        needs: Other settings -> the values of theirs (any of them) without which this one is never read.
            `(True,)` and `(False,)` also stand for "given" and "not given" where the other setting is no boolean.
        unread: Why nothing reads it in this version, or nothing reads some of its values, as value -> reason. Begins
            with `NOT_YET` where that will change.
        known: Values that users' files may hold and that are refused because this version does not have them.
        **constraints: Of `pydantic.Field`, such as `ge`.
    """
    extra: dict[str, Any] = {"unit": unit, "aliases": list(aliases), "needs": dict(needs or {})}
    extra |= {"unread": unread, "known": list(known)}
    extra = {key: value for key, value in extra.items() if value}
    return Field(default, description=description, json_schema_extra=extra or None, **constraints)


class Topic(BaseModel):
    """A group of settings. Unknown keys are refused, values are coerced from strings, instances are frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _blank_means_default(cls, values: Any) -> Any:
        """Files write "" for "not set"; such an entry counts as absent."""
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if not (isinstance(value, str) and not value.strip())}


def field_extra(field: FieldInfo, name: str, default: Any) -> Any:
    """Return an entry of a setting's extra information, or `default`."""
    extra = field.json_schema_extra
    return extra.get(name, default) if isinstance(extra, dict) else default
