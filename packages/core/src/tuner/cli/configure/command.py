"""Running `tuner configure`: which file, whether there is a terminal, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tuner.cli.configure.draft import open_draft
from tuner.cli.configure.session import Session
from tuner.cli.configure.terminal import say
from tuner.errors import ConfigError, Problem

CANCELLED = 130


def configure(file: str | None) -> int:
    """Edit a configuration in a terminal.

    Args:
        file: The file; config/config.json if not given.

    Returns:
        0 saved, or nothing to save; 130 cancelled, with nothing written.

    Raises:
        ConfigError: There is no terminal, or the file cannot be edited.
        TunerError: No family is installed, or the file changed meanwhile.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        message = "`tuner configure` asks questions and needs a terminal"
        remedy = "edit the file by hand instead: `tuner schema` describes every key, `tuner check` tells what is wrong"
        raise ConfigError([Problem(message, remedy=remedy)])
    session = Session(open_draft(Path(file or "config/config.json")))
    saved = False
    with _hanging_up_interrupts():
        try:
            _greet(session)
            saved = session.run()
        except (KeyboardInterrupt, EOFError):
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # that of a terminal that was closed
                raise
        if not saved:
            _tell("cancelled; nothing was written")
            return CANCELLED
    _save(session)
    return 0


def _greet(session: Session) -> None:
    draft = session.sheet.draft
    state = "a new file" if draft.before is None else f"{len(draft.before)} settings"
    say(f"tuner configure (experimental): {draft.path}, {state}", "bold")
    say("Enter keeps what stands there, an empty answer means the default. Esc goes back to the menu.")
    say("Ctrl-C leaves and writes nothing. The data set file is never written.")


def _save(session: Session) -> None:
    drafts = session.drafts()
    for draft in drafts:
        if draft.changed:
            draft.save()
            _tell(f"wrote {draft.path}")
    if not any(draft.changed for draft in drafts):
        _tell("nothing changed, nothing was written")


def _tell(text: str) -> None:
    """Print a last word, which a terminal that was closed no longer shows."""
    try:
        print(text, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


@contextlib.contextmanager
def _hanging_up_interrupts() -> Iterator[None]:
    """Treat a closed terminal like Ctrl-C, so that nothing is left half done."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if not hasattr(signal, "SIGHUP"):  # not on Windows
        yield
        return
    before = signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
