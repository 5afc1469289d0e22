"""Prompts. Ctrl-C and Ctrl-D leave the command, Esc leaves a question."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import questionary
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings


class Back(Exception):  # noqa: N818 (a request, no error)
    """Somebody pressed Esc: leave the question as it is and go back to the menu."""


def ask_text(message: str, default: str, check: Callable[[str], str | None]) -> str:
    """Ask for a line of text.

    Args:
        message: The question.
        default: Text that stands there at first.
        check: Text -> why it is refused, or None.

    Raises:
        Back: Esc was pressed.
        KeyboardInterrupt: Ctrl-C was pressed.
        EOFError: Ctrl-D was pressed, or the terminal was closed.
    """

    def validate(text: str) -> bool | str:
        return check(text) or True

    return str(_run(questionary.text(f"{message}:", default=default, validate=validate)))


def ask_choice(message: str, titles: Sequence[str], pointed: int = 0, descriptions: Sequence[str | None] = ()) -> int:
    """Ask for one of several things; return its number.

    Args:
        message: The question.
        titles: What to choose from.
        pointed: Number of the one that Enter takes.
        descriptions: More about each, shown while it is pointed at; typing does not search in it.

    Raises:
        Back, KeyboardInterrupt, EOFError: As `ask_text`.
    """
    about = descriptions or [None] * len(titles)
    choices = [
        questionary.Choice(title, value=number, description=description)
        for number, (title, description) in enumerate(zip(titles, about, strict=True))
    ]
    question = questionary.select(
        f"{message}:",
        choices,
        default=choices[pointed],
        use_search_filter=True,
        use_jk_keys=False,
    )
    return int(_run(question))


def say(text: str, style: str | None = None) -> None:
    """Show text. Control characters that a file may hold do nothing here."""
    questionary.print(text, style=style)


def explain(text: str, style: str | None = None) -> None:
    """Show a sentence or two, indented and broken between words."""
    width = shutil.get_terminal_size().columns
    say(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  "), style)


def _run(question: questionary.Question) -> Any:
    keys = KeyBindings()

    @keys.add("escape")
    def _back(event: KeyPressEvent) -> None:
        event.app.exit(exception=Back())

    @keys.add("c-d", eager=True)
    def _leave(event: KeyPressEvent) -> None:
        event.app.exit(exception=EOFError())

    application = question.application
    before = application.key_bindings
    application.key_bindings = merge_key_bindings([before, keys] if before else [keys])
    return question.unsafe_ask()
