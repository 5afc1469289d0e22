"""One question about one setting: what people are shown, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuner.cli.configure.catalogue import Setting, judge, read_answer, show
from tuner.cli.configure.draft import MISSING
from tuner.cli.configure.sheet import Sheet
from tuner.cli.configure.terminal import ask_choice, ask_text, explain, say
from tuner.config.receipt import scrubbed
from tuner.config.settings import field_extra

Check = Callable[[Any], str | None]
"""A value as the model holds it -> why it is refused all the same, or None."""


def describe(sheet: Sheet, key: str, notes: Sequence[str] = ()) -> None:
    """Show what a setting means, its unit and default, and what there is to know about it."""
    setting = sheet.settings[key]
    default = sheet.default(key)
    unit = field_extra(setting.field, "unit", None)
    known = "must be given" if default is MISSING else f"default {show(default) or 'none'}"
    say(f"\n{key}", "bold")
    explain(f"{setting.field.description} ({', '.join(part for part in (unit, known) if part)})")
    unread = field_extra(setting.field, "unread", None)
    if isinstance(unread, str):
        notes = [*notes, f"has no effect in this version: {unread}"]
    for note in [*notes, *(f"not read in this run: {need}" for need in sheet.unmet_needs(key))]:
        explain(note, "italic")


def ask_setting(sheet: Sheet, key: str, check: Check | None = None) -> None:
    """Ask for a value: from a list where there is one, as text otherwise.

    Args:
        sheet: Where the answer goes.
        key: The setting.
        check: A rule beside the model's own.
    """
    choices = sheet.settings[key].choices
    if choices is None:
        _ask_for_text(sheet, key, check)
    else:
        unread = field_extra(sheet.settings[key].field, "unread", None)
        reasons = unread if isinstance(unread, Mapping) else {}
        choose(sheet, key, [(choice, str(reasons.get(choice, ""))) for choice in choices])


def choose(
    sheet: Sheet,
    key: str,
    choices: Sequence[tuple[Any, str]],
    more: Sequence[str] = (),
    point_at_more: bool = False,
) -> int | None:
    """Let somebody choose a value. One that the file has and that is no choice can be kept.

    Args:
        sheet: Where the answer goes.
        key: The setting.
        choices: (value, what to know about it).
        more: Entries at the end that stand for no value.
        point_at_more: Enter takes the first of `more` instead of the present value.

    Returns:
        The number of the entry of `more` that was chosen, or None.
    """
    setting, present, now = sheet.settings[key], sheet.present(key), sheet.value(key)
    titles = [_title(value, value == sheet.default(key), note) for value, note in choices]
    pointed = next((number for number, (value, _) in enumerate(choices) if value == now), None)
    kept = []
    if pointed is None and present is not MISSING:
        reason = judge(setting, present).message or "none of the others"
        kept, pointed = [f"{show(scrubbed(key, present))}  (as it is: {reason})"], len(choices)
    count = len(choices) + len(kept)
    chosen = ask_choice(key, [*titles, *kept, *more], count if point_at_more else pointed or 0)
    if chosen < len(choices):
        sheet.answer(key, choices[chosen][0])
    return chosen - count if chosen >= count else None


def _title(value: Any, is_default: bool, note: str) -> str:
    notes = [text for text in ("default" if is_default else "", note) if text]
    return (show(value) or "none") + (f"  ({'; '.join(notes)})" if notes else "")


def _ask_for_text(sheet: Sheet, key: str, check: Check | None) -> None:
    setting, present = sheet.settings[key], sheet.present(key)
    shown = "" if present is MISSING else show(scrubbed(key, present))
    default = sheet.default(key)

    def refuse(text: str) -> str | None:
        if text == shown != "" and check is None:
            return None  # Enter keeps what stands there; the review tells what is wrong with it
        if not text.strip() and not setting.field.is_required():
            # Nothing typed stands for the default.
            return check(default) if check else None
        verdict = read_answer(setting, text)
        if verdict.message or check is None:
            return verdict.message
        return check(judge(setting, verdict.value).value)

    text = ask_text(f"{key}{_hint(setting, default)}", shown, refuse)
    if text == shown:
        return
    if text.strip():
        sheet.answer(key, read_answer(setting, text).value)
    else:
        sheet.clear(key)


def _hint(setting: Setting, default: Any) -> str:
    """Return what an empty answer stands for."""
    return "" if default is MISSING or not show(default) else f" [{show(default)}]"
