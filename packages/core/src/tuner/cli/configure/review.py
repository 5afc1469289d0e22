"""What would be written, what is wrong with it, and whether to write it."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.cli.configure.draft import Draft, as_json, scratch_file
from tuner.cli.configure.sheet import Sheet
from tuner.cli.configure.terminal import ask_choice, say
from tuner.config.loading import load_config
from tuner.config.settings import HIDDEN, is_secret
from tuner.errors import ConfigError, Problem, TunerError

_STYLES = {"+": "fg:ansigreen", "-": "fg:ansired", "@": "fg:ansicyan"}


@dataclass(frozen=True)
class Findings:
    """What a run would say of the answers.

    Attributes:
        problems: What would stop it.
        notes: What it would warn of.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def review(sheet: Sheet, lycoris: Sheet | None, drafts: Sequence[Draft]) -> bool | None:
    """Show the changes and the problems; return True to save, False to cancel, None to go back."""
    for draft in drafts:
        if draft.changed:
            say(f"\nchanges of {draft.path}:", "bold")
            for line in hide_secrets(draft.diff(), draft):
                say(line, _STYLES.get(line[:1]))
        else:
            say(f"\nnothing changed in {draft.path}", "bold")
        if draft.warnings and draft.changed:
            say("Saving loses comments and trailing commas, which are no JSON:", "fg:ansiyellow")
            for warning in draft.warnings:
                say(f"  - {warning}", "fg:ansiyellow")
    findings = find_problems(sheet, next((draft for draft in drafts if lycoris and draft is lycoris.draft), None))
    for note in findings.notes:
        say(f"note: {note}", "italic")
    if findings.problems:
        say(f"\nA run would stop at {len(findings.problems)} problem(s):", "bold fg:ansired")
        for problem in findings.problems:
            say(f"  - {problem}", "fg:ansired")
    else:
        say("\nThe configuration is in order.", "fg:ansigreen")
    say("")
    chosen = ask_choice("save", ["save", "back to the menu", "cancel: write nothing"])
    return (True, None, False)[chosen]


def hide_secrets(lines: Sequence[str], draft: Draft) -> Iterator[str]:
    """Yield the lines of a diff without the values of settings that hold secrets."""
    texts = {as_json(text).strip() for text in _secrets([draft.before or {}, draft.values])}
    for line in lines:
        for text in texts:
            line = line.replace(text, f'"{HIDDEN}"')  # noqa: PLW2901
        yield line


def _secrets(value: Any, secret: bool = False) -> Iterator[str]:
    """Yield the texts within a value that a setting with a secret holds."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(item, secret or is_secret(key))
    elif isinstance(value, list):
        for item in value:
            yield from _secrets(item, secret)
    elif isinstance(value, str) and secret:
        yield value


def find_problems(sheet: Sheet, lycoris: Draft | None) -> Findings:
    """Load the answers as a run would, from files beside the place where they are to be saved.

    Args:
        sheet: The configuration.
        lycoris: The LyCORIS file, if it is to be saved as well.
    """
    path = sheet.draft.path
    with contextlib.ExitStack() as stack:
        spare = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = path.parent if path.parent.is_dir() else spare
        values = dict(sheet.draft.values)
        shown = {str(spare): str(path.parent)}
        if lycoris is not None:
            trial = stack.enter_context(scratch_file(spare, as_json(lycoris.values)))
            for spelling in [key for key in values if key.lstrip("-") == "lycoris_config"] or ["lycoris_config"]:
                values[spelling] = str(trial)
            shown = {str(trial): str(lycoris.path), **shown}
        scratch = stack.enter_context(scratch_file(folder, as_json(values)))
        shown = {str(scratch): str(path), **shown}
        try:
            loaded = load_config(scratch)
        except ConfigError as error:
            return Findings(tuple(_relabelled(problem, shown) for problem in error.problems))
        except TunerError as error:
            return Findings((Problem(str(error), str(path)),))
        unread = (f"{key} has no effect in this run: {reason}" for key, reason in loaded.unread.items())
        return Findings((), tuple(_replaced(text, shown) for text in (*loaded.warnings, *unread)))


def _relabelled(problem: Problem, shown: dict[str, str]) -> Problem:
    file = _replaced(problem.file, shown) if problem.file else None
    return dataclasses.replace(problem, message=_replaced(problem.message, shown), file=file)


def _replaced(text: str, shown: dict[str, str]) -> str:
    for name, real in shown.items():
        text = text.replace(name, real)
    return text
