"""The model card's file: a card that a run wrote may be replaced by the next one, anybody else's text may not."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tuner.caching.files import write_aside

CARD = "README.md"
"""Name under which the hub looks for a model card."""

_NAMES = (CARD, "MODEL_CARD.md")
_SEAL = re.compile(r"<!-- written by tuner, replaced unless edited: ([0-9a-f]{16}) -->\s*\Z")


def sealed(text: str) -> str:
    """Return a card with a last line by which a later run sees whether somebody has changed it."""
    body = text.rstrip() + "\n\n"
    return f"{body}<!-- written by tuner, replaced unless edited: {_digest(body)} -->\n"


def is_untouched(text: str) -> bool:
    """Whether a card is as a run wrote it."""
    text = text.replace("\r\n", "\n")
    seal = _SEAL.search(text)
    return seal is not None and _digest(text[: seal.start()]) == seal[1]


def write_card(folder: Path, text: str) -> Path | None:
    """Write a card as README.md, or as MODEL_CARD.md where somebody else's README.md is.

    Returns:
        The file, or None where both hold what somebody else wrote.

    Raises:
        OSError: It cannot be written.
    """
    for name in _NAMES:
        target = folder / name
        if not target.exists() or (target.is_file() and is_untouched(target.read_text("utf-8", errors="replace"))):
            write_aside(target, lambda temporary: temporary.write_text(sealed(text), encoding="utf-8"))
            return target
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
