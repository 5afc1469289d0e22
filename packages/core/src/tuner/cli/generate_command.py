"""The command `tuner generate`: its arguments and its prompts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuner.config.arguments import parse_settings
from tuner.config.prompts import parse_library, unused_name
from tuner.config.reader import read_document
from tuner.config.validation import parse_sizes
from tuner.errors import ConfigError, Problem
from tuner.generation.request import GenerateRequest

_LABEL = 60
"""Characters of a prompt that become part of a file name."""


def generate(options: argparse.Namespace, rest: list[str]) -> int:
    """Make pictures.

    Args:
        options: The parsed arguments.
        rest: Further arguments, which are settings of the family's own.
    """
    problems: list[Problem] = []
    sizes = _sizes(options, problems)
    prompts = _prompts(options, problems)
    further = _further(rest, problems)
    request = GenerateRequest(
        prompts=prompts,
        sizes=sizes,
        options=further,
        **{
            key: getattr(options, key)
            for key in (
                *("output", "trained", "weights", "family", "base", "revision", "negative", "seed", "number"),
                *("guidance", "steps", "strength", "merge", "quantise", "precision"),
            )
        },
    )
    from tuner.generation.pictures import generate as run_generation

    for file in run_generation(request, problems):
        print(file)
    return 0


def _further(rest: list[str], problems: list[Problem]) -> dict[str, Any]:
    """Return the family's own settings among the arguments."""
    try:
        further = parse_settings(rest)
    except ConfigError as error:
        problems += error.problems
        return {}
    if further.config is not None:
        problems.append(Problem(f"{further.config!r} is no argument", "command line", remedy="see `--help`"))
    return further.overrides


def _sizes(options: argparse.Namespace, problems: list[Problem]) -> tuple[tuple[int, int], ...]:
    pair = (options.width, options.height)
    if options.resolution and any(pair):
        problems.append(Problem("excludes --width and --height", "command line", "resolution"))
    elif options.resolution:
        try:
            return tuple(parse_sizes(options.resolution))
        except ValueError as error:
            problems.append(Problem(str(error), "command line", "resolution"))
    elif any(side is not None for side in pair):
        if all(side and side > 0 for side in pair):
            return (pair,)
        problems.append(Problem("both are needed, and more than 0", "command line", "width and height"))
    return ()


def _prompts(options: argparse.Namespace, problems: list[Problem]) -> dict[str, str]:
    """Return nickname -> prompt, those of the file last; equal nicknames get numbers."""
    named: dict[str, str] = {}
    entries = [(prompt, prompt) for prompt in options.prompt]
    if options.prompts is not None:
        try:
            entries += _prompts_in(options.prompts)
        except (OSError, ValueError) as error:
            problems.append(Problem(f"cannot be used: {error}", str(options.prompts), "prompts"))
        except ConfigError as error:
            problems += (replace(problem, key="prompts") for problem in error.problems)
    for nickname, prompt in entries:
        named[unused_name(nickname[:_LABEL] or "unconditional", named)] = prompt
    return named


def _prompts_in(file: Path) -> list[tuple[str, str]]:
    """Return (nickname, prompt) of a file of prompts.

    Raises:
        ConfigError: It cannot be read or is no JSON.
        OSError: It cannot be read.
        ValueError: It holds something else.
    """
    if file.suffix.lower() != ".json":
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        return [(line, line) for line in dict.fromkeys(lines) if line.strip()]
    content = read_document(file).values
    if not isinstance(content, list):
        library = parse_library(content)
        if own := [entry.nickname for entry in library if entry.adapter_strength is not None]:
            raise ValueError(
                f"{', '.join(own)}: adapter_strength belongs to validation pictures; leave it out and give --strength"
            )
        return [(entry.nickname, entry.prompt) for entry in library]
    if odd := [entry for entry in content if not isinstance(entry, str)]:
        raise ValueError(f"{odd[0]!r} is no text")
    return [(prompt, prompt) for prompt in content]
