"""What webhooks are told, and how Discord and other servers want to be told."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.config.webhooks import Level, Webhook

if TYPE_CHECKING:
    from PIL.Image import Image

_DISCORD_FILES = 10
"""Most files of one message."""

_DISCORD_LETTERS = 2000
"""Longest text of one message."""

_DISCORD_FILE = 8_000_000
"""Bytes that a file may have everywhere; servers that somebody pays for take more."""

_DISCORD_REQUEST = 24_000_000
"""Bytes that the files of one message may have together."""


@dataclass(frozen=True)
class Message:
    """Something that happened.

    Attributes:
        kind: What, for programs, such as "checkpoint.saved".
        level: How important it is.
        text: What, for people.
        data: Facts by name, as JSON values.
        pictures: PNG files, or pictures in memory.
    """

    kind: str
    level: Level
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Path | Image, ...] = ()

    @property
    def is_heavy(self) -> bool:
        """Whether it holds pictures in memory."""
        return any(not isinstance(picture, Path) for picture in self.pictures)


def requests_of(webhook: Webhook, message: Message) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `requests.post` that tell a message, one set per request.

    Raises:
        OSError: A picture cannot be read.
    """
    text = f"{webhook.message_prefix} {message.text}" if webhook.message_prefix else message.text
    pictures = [_png(picture) for picture in message.pictures]
    if webhook.webhook_type == "discord":
        yield from _to_discord(text, pictures)
    else:
        body = {
            "type": message.kind,
            "level": message.level,
            "message": text,
            "data": _json_value(message.data),
            "images": [base64.b64encode(picture).decode("ascii") for picture in pictures],
        }
        yield {"json": body}


def _to_discord(text: str, pictures: list[bytes]) -> Iterator[dict[str, Any]]:
    shown = text if len(text) <= _DISCORD_LETTERS else text[: _DISCORD_LETTERS - 1] + "…"
    # A prompt that holds "@everyone" shall wake nobody.
    payload = {"content": shown, "allowed_mentions": {"parse": []}}
    if not pictures:
        yield {"json": payload}
    for start, part in _packed([_fitting(picture) for picture in pictures]):
        files = {
            f"files[{number}]": (f"{start + number}.{kind}", data, f"image/{kind}")
            for number, (kind, data) in enumerate(part)
        }
        yield {"data": {"payload_json": json.dumps(payload if start == 0 else {"content": ""})}, "files": files}


def _fitting(picture: bytes) -> tuple[str, bytes]:
    """Return kind and content of a picture that Discord takes: the PNG as it is, or a JPEG, smaller if need be."""
    if len(picture) <= _DISCORD_FILE:
        return "png", picture
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        shown = opened.convert("RGB")
    while True:
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=90)
        if buffer.tell() <= _DISCORD_FILE:
            return "jpeg", buffer.getvalue()
        shown = shown.reduce(2)


def _packed(pictures: list[tuple[str, bytes]]) -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """Yield (number of the first, pictures) of each message that they fit into."""
    start, size = 0, 0
    for number, (_, data) in enumerate(pictures):
        if number - start == _DISCORD_FILES or size + len(data) > _DISCORD_REQUEST:
            yield start, pictures[start:number]
            start, size = number, 0
        size += len(data)
    if pictures:
        yield start, pictures[start:]


def _png(picture: Path | Image) -> bytes:
    if isinstance(picture, Path):
        return picture.read_bytes()
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _json_value(value: Any) -> Any:
    """Return `value` with null in the place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _json_value(item) for name, item in value.items()}
    return [_json_value(item) for item in value] if isinstance(value, (list, tuple)) else value
