"""Prompts of validation pictures: the built-in set, and libraries of users."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class LibraryPrompt:
    """An entry of a prompt library.

    Attributes:
        nickname: What its pictures are called.
        prompt: The prompt.
        adapter_strength: Strength of the adapter in its pictures, where it has one of its own.
    """

    nickname: str
    prompt: str
    adapter_strength: float | None = None


def builtin_prompts() -> list[LibraryPrompt]:
    """Return the built-in set."""
    text = resources.files("tuner.config").joinpath("prompt_library.json").read_text(encoding="utf-8")
    return parse_library(json.loads(text))


def parse_library(content: Any) -> list[LibraryPrompt]:
    """Read a library: an object of nickname -> prompt, or -> an object of `prompt` and `adapter_strength`.

    Raises:
        ValueError: It is not; says where.
    """
    if not isinstance(content, dict):
        raise ValueError(f"must be an object of nickname -> prompt, not {type(content).__name__}")
    return [_entry(str(nickname), value) for nickname, value in content.items()]


def merge_libraries(libraries: Iterable[Iterable[LibraryPrompt]]) -> list[LibraryPrompt]:
    """Join libraries in their order.

    An entry that is there already is taken once; one whose nickname another prompt has gets a number behind it.
    """
    merged: dict[str, LibraryPrompt] = {}
    for entry in (entry for library in libraries for entry in library):
        if merged.get(entry.nickname) == entry:
            continue
        name = unused_name(entry.nickname, merged)
        merged[name] = LibraryPrompt(name, entry.prompt, entry.adapter_strength)
    return list(merged.values())


def unused_name(name: str, taken: Collection[str]) -> str:
    """Return a name, with the first free number behind it if it is taken.

    Upper and lower case count as equal, as they do on some file systems.
    """
    lowered = {other.casefold() for other in taken}
    numbered, number = name, 1
    while numbered.casefold() in lowered:
        number += 1
        numbered = f"{name}_{number}"
    return numbered


def safe_name(name: str) -> str:
    """Turn a name into something that every file system accepts as a file's name or part of one."""
    cleaned = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name).strip(" .")
    # File systems count bytes, and a letter may have four.
    return cleaned.encode()[:80].decode(errors="ignore").strip(" .") or "_"


def _entry(nickname: str, value: Any) -> LibraryPrompt:
    if isinstance(value, str):
        return LibraryPrompt(nickname, value)
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise ValueError(f"{nickname!r} must be a prompt, or an object that holds one under prompt")
    if unknown := sorted(map(str, value.keys() - {"prompt", "adapter_strength"})):
        raise ValueError(f"{nickname!r} has {', '.join(unknown)}; an entry holds prompt and adapter_strength")
    strength = value.get("adapter_strength")
    if strength is None:
        return LibraryPrompt(nickname, value["prompt"])
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
        raise ValueError(f"adapter_strength of {nickname!r} must be a number, not {strength!r}")
    return LibraryPrompt(nickname, value["prompt"], float(strength))
