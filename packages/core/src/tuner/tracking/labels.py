"""Names of values in trackers."""

from __future__ import annotations


def labelled(name: str, label: str) -> str:
    """Name a value so that those of the trained weights form one line, which the base model's begin."""
    return name if label in ("live", "base model") else f"{label}/{name}"
