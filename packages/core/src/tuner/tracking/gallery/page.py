"""The page itself: one HTML file that holds its style, its scripts and the run's record, and loads only pictures."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

_PARTS = files("tuner.tracking.gallery") / "parts"
_SCRIPTS = ("elements", "numbers", "chart", "curves", "evaluations", "pictures", "facts", "page")


def render_page(record: dict[str, Any]) -> str:
    """Return the page of a record, as `RunRecord.as_json` gives it."""
    frame, style, script = _parts()
    title = html.escape(f"{record['name']} - {record['title']}")
    # In one pass over the frame: what is filled in may look like a place to fill in.
    before, after = frame.split("{{data}}")
    policy = f"default-src 'none'; img-src 'self' file:; style-src {_hash(style)}; script-src {_hash(script)}"
    head = before.replace("{{policy}}", policy).replace("{{style}}", style).replace("{{title}}", title)
    return head + embedded(record) + after.replace("{{script}}", script)


def embedded(value: Any) -> str:
    """Return JSON that no HTML parser can take for a tag, an entity or the end of the script element it is in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Outside strings JSON has none of these, and within them the escape says the same.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # Half of a surrogate pair, as a file name that is no text may hold, cannot be written as UTF-8.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _parts() -> tuple[str, str, str]:
    def read(name: str) -> str:
        return (_PARTS / name).read_text(encoding="utf-8")

    script = "\n".join(['"use strict";', *(read(f"{name}.js") for name in _SCRIPTS)])
    return read("page.html"), read("page.css"), script


def _hash(text: str) -> str:
    """Return the source expression that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
