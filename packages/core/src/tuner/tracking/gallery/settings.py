"""The settings receipt as the page shows it: without paths, and told apart by who set what."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tuner.config.receipt import RECEIPT_FILE

_NOBODY = {"default", "family", "optimizer", "configuration"}
_POSIX_PATH = re.compile(r"(?<![\w/:.~-])~?(?:/[^/\s'\",;:()]+){2,}/?")
_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\[^\s'\",;]+")


def read_settings(folder: Path) -> list[dict[str, Any]]:
    """Read the receipt that the run has written; empty where there is none.

    Returns:
        Objects with `key`, `value` (as text), `origin`, `unread` (the reason or None) and `given`: whether the user
        set it, rather than the product or the family.
    """
    try:
        receipt = json.loads((folder / RECEIPT_FILE).read_text(encoding="utf-8"))
        return [_row(entry) for entry in receipt]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": str(entry["key"]),
        "value": _text(without_paths(entry["value"])),
        "origin": without_paths(str(entry["origin"])),
        "unread": without_paths(entry["unread"]),
        "given": entry["origin"] not in _NOBODY,
    }


def without_paths(value: Any) -> Any:
    """Reduce the absolute paths in a JSON value to their last parts."""
    if isinstance(value, dict):
        return {name: without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~/")):  # a path as a whole may hold spaces
        return PurePosixPath(value).name or value
    if re.match(r"[A-Za-z]:\\", value):
        return PureWindowsPath(value).name or value
    return prose_without_paths(value)


def prose_without_paths(text: str) -> str:
    """Reduce the absolute paths in a sentence to their last parts, also one that it begins with."""
    text = _WINDOWS_PATH.sub(lambda match: PureWindowsPath(match[0]).name, text)
    return _POSIX_PATH.sub(lambda match: PurePosixPath(match[0]).name, text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
