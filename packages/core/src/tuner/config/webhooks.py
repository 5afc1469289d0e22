"""Webhooks: addresses that are told what a run does, from webhook_config."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from tuner.config.keys import describe_errors, unknown_key
from tuner.errors import Problem

if TYPE_CHECKING:
    from tuner.config.references import Reading

Level = Literal["critical", "error", "warning", "info", "debug"]

LEVELS: tuple[Level, ...] = ("critical", "error", "warning", "info", "debug")
"""From the fewest messages to the most."""

_ADDRESSES = {"discord": "webhook_url", "raw": "callback_url"}
"""Type -> the key that holds its address."""


class Webhook(BaseModel):
    """One webhook.

    Attributes:
        webhook_type: Discord, or JSON to any server.
        webhook_url: Address of a Discord webhook.
        callback_url: Address that JSON is posted to.
        message_prefix: Stands before every text, such as the name of the run.
        log_level: The least important messages that are sent.
        auth_token: Sent as the header X-API-Key, to `callback_url` alone.
        ssl_no_verify: Whether to accept any certificate.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    webhook_type: Literal["discord", "raw"]
    webhook_url: SecretStr | None = Field(None, repr=False)
    callback_url: SecretStr | None = Field(None, repr=False)
    message_prefix: str | None = None
    log_level: Level = "info"
    auth_token: SecretStr | None = Field(None, repr=False)
    ssl_no_verify: bool = False

    @property
    def address(self) -> str:
        """Where messages go. A secret: whoever knows it can write there."""
        url = self.webhook_url if self.webhook_type == "discord" else self.callback_url
        return url.get_secret_value() if url else ""

    def wants(self, level: Level) -> bool:
        """Whether messages of a level are sent."""
        return LEVELS.index(level) <= LEVELS.index(self.log_level)


def read_webhooks(value: Any, origin: str, reading: Reading) -> tuple[Webhook, ...]:
    """Return the webhooks that webhook_config names; problems are noted in `reading`.

    Args:
        value: A path, JSON text, an object or a list of objects.
        origin: The file that holds the setting.
        reading: Reads the file, and keeps addresses and tokens from being shown.
    """
    key = "webhook_config"
    if isinstance(value, str):
        if value.lstrip().startswith(("{", "[")):
            try:
                value = json.loads(value)
            except ValueError as error:
                reading.problems.append(Problem(f"is no JSON: {error}", origin, key))
                return ()
        else:
            path = reading.find_named(Path(value), origin, key)
            value = _read_file(path, reading) if path else None
            origin, key = str(path), ""
    if value is None:
        return ()
    single = not isinstance(value, list)
    webhooks = []
    for number, entry in enumerate([value] if single else value):
        label = key if single else f"{key}[{number}]"
        if not isinstance(entry, dict):
            found = type(entry).__name__
            reading.problems.append(Problem(f"a webhook must be an object, not {found}", origin, label or None))
            continue
        reading.expansion.secrets.update(_secrets(entry))
        webhook, problems = _webhook(entry, origin, label)
        reading.problems += problems
        if webhook is not None:
            webhooks.append(webhook)
            reading.warnings += _warnings(webhook, label or origin)
    return tuple(webhooks)


def _read_file(path: Path, reading: Reading) -> Any:
    """Parse a file. What is wrong with it is told without quoting it: addresses are secrets."""
    known = len(reading.problems)
    value = reading.read(path, {})
    quoting = reading.problems[known:]
    if quoting and value is None:
        place = re.search(r"line \d+(, column \d+)?", quoting[0].message)
        message = f"cannot be read{f' ({place[0]})' if place else ''}"
        reading.problems[known:] = [Problem(message, str(path), None, "check that it is JSON, or TOML or YAML")]
    return value


def _webhook(entry: Mapping[str, Any], origin: str, label: str) -> tuple[Webhook | None, list[Problem]]:
    known = list(Webhook.model_fields)
    prefix = f"{label}: " if label else ""
    problems = []
    for name in entry.keys() - set(known):
        strange = unknown_key(str(name), origin, known)
        remedy = strange.remedy if strange.remedy and "did you mean" in strange.remedy else f"one of {', '.join(known)}"
        problems.append(Problem("no such key of a webhook", origin, f"{prefix}{name}", remedy))
    try:
        webhook = Webhook.model_validate({name: value for name, value in entry.items() if name in known})
    except ValidationError as error:
        return None, problems + describe_errors(error, origin, prefix=prefix)
    problems += _address_problems(webhook, origin, prefix)
    return (None if problems else webhook), problems


def _address_problems(webhook: Webhook, origin: str, prefix: str) -> Iterator[Problem]:
    wanted = _ADDRESSES[webhook.webhook_type]
    for name in _ADDRESSES.values():
        if name != wanted and getattr(webhook, name):
            message = f"means nothing to webhook_type {webhook.webhook_type}"
            yield Problem(message, origin, f"{prefix}{name}", f"write {wanted}")
    if not webhook.address:
        yield Problem(f"is required by webhook_type {webhook.webhook_type}", origin, f"{prefix}{wanted}")
    elif not _is_address(webhook.address):
        yield Problem("is no address of the form https://host/path", origin, f"{prefix}{wanted}")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in text


def _secrets(entry: Mapping[str, Any]) -> set[str]:
    texts = (entry.get(name) for name in ("webhook_url", "callback_url", "auth_token"))
    return {text.strip() for text in texts if isinstance(text, str) and text.strip()}


def _warnings(webhook: Webhook, label: str) -> Iterator[str]:
    if webhook.ssl_no_verify:
        yield f"{label}: with ssl_no_verify, whoever is between here and the webhook can read what is sent"
    if webhook.auth_token and webhook.webhook_type == "discord":
        yield f"{label}: auth_token is not sent: Discord has no use for it"
