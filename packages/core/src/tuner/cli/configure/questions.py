"""Questions that take more than one setting's own rules: the family, its weights, the run's length, further files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tuner.cli.configure.asking import ask_setting, choose, describe
from tuner.cli.configure.catalogue import settings_of_lycoris
from tuner.cli.configure.draft import MISSING, open_draft
from tuner.cli.configure.sheet import Sheet
from tuner.cli.configure.terminal import ask_choice, explain, say
from tuner.cli.survey import survey_families
from tuner.errors import TunerError

if TYPE_CHECKING:
    from tuner.cli.configure.session import Session

FIRST_LYCORIS = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 16}
"""What a new LyCORIS file starts from."""

DATA_EXAMPLE = """  [
    {
      "id": "my-pictures",
      "instance_data_dir": "datasets/my-pictures",
      "caption_strategy": "textfile"
    }
  ]"""


def ask_family(session: Session) -> None:
    """Ask for the family, among those that are installed."""
    sheet = session.sheet
    working, broken = survey_families()
    for row in broken:
        explain(f"{row['name']} is installed, but broken: {row['reason']}", "fg:ansired")
    if not working and sheet.present("model_family") is MISSING:
        raise TunerError("no model family is installed\n    -> pip install tuner-model-NAME")
    now = sheet.value("model_family")
    # An alias that the file has stays as it is.
    names = [now if now in (family.facts.name, *aliases) else family.facts.name for family, aliases in working]
    titles = [f"{family.facts.title}, licence {family.facts.licence}" for family, _ in working]
    choose(sheet, "model_family", list(zip(names, titles, strict=True)))
    session.follow_family()
    for name, advice in session.advice_beside(sheet.settings).items():
        explain(f"advice on {name}: {advice}", "italic")


def ask_weights(session: Session) -> None:
    """Ask for a flavour, or for weights of one's own."""
    sheet, path = session.sheet, "pretrained_model_name_or_path"
    flavours = session.family.facts.flavours if session.family else {}
    choices = [
        (name, "; ".join(text for text in (flavour.repo, flavour.note, flavour.warning) if text))
        for name, flavour in flavours.items()
    ]
    had_own = sheet.present(path) is not MISSING
    more = ["weights of your own: a folder or a hub repository"]
    if choose(sheet, "model_flavour", choices, more, point_at_more=had_own) is None:
        sheet.clear(path)
        flavour = flavours.get(str(sheet.value("model_flavour")))
        if flavour and flavour.warning:
            explain(flavour.warning, "fg:ansiyellow")
        return
    describe(sheet, path)
    ask_setting(sheet, path, check=lambda value: None if value else "name a folder or a repository")
    if not had_own:
        sheet.clear("model_flavour")


def ask_length(session: Session) -> None:
    """Ask for steps or epochs; exactly one of them counts."""
    sheet = session.sheet
    pair = ("max_train_steps", "num_train_epochs")
    by_epochs = sheet.value(pair[1]) not in (0, MISSING) and sheet.value(pair[0]) in (0, MISSING)
    chosen = ask_choice("length of the run", ["a number of steps", "a number of epochs"], int(by_epochs))
    key, other = pair[chosen], pair[1 - chosen]
    if chosen == 1:
        describe(sheet, key)
    ask_setting(sheet, key, check=lambda value: None if value else "must be above 0")
    sheet.answer(other, 0)


def ask_data_file(session: Session) -> None:
    """Ask where the data set file is; what it holds is people's own."""
    sheet, key = session.sheet, "data_backend_config"
    ask_setting(sheet, key)
    path = session.locate(key)
    if path is not None:
        say(f"  {path} is there. This command reads it for the review and never writes it.")
        return
    say("  There is no such file yet. This command never writes it. Write one yourself, for example:", "fg:ansiyellow")
    say(DATA_EXAMPLE)
    say("  `tuner schema datasets` describes every key; `tuner check` shows what becomes of the pictures.")


def ask_lycoris(session: Session) -> None:
    """Ask which LyCORIS file, and for what it holds if it is new or may be changed."""
    sheet, key = session.sheet, "lycoris_config"
    ask_setting(sheet, key)
    found = session.locate(key)
    path = found or session.place_for(key)
    if path is None:
        return
    if session.lycoris is None or session.lycoris.draft.path != path:
        try:
            session.lycoris = Sheet(open_draft(path), settings_of_lycoris())
        except TunerError as error:
            session.lycoris = None
            say(f"  {error}", "fg:ansired")
            return
    if found is not None:
        say(f"  {path} is a file of its own, which is there already.")
        if ask_choice("LyCORIS file", ["keep it as it is", "change it"]) == 0:
            return
    elif not session.lycoris.draft.values:
        say(f"  {path} is not there yet; it will be written with these settings.")
        session.lycoris.draft.values.update(FIRST_LYCORIS)
    for name in session.lycoris.settings:
        describe(session.lycoris, name)
        ask_setting(session.lycoris, name)


ASKERS: dict[str, Callable[[Session], None]] = {
    "model_family": ask_family,
    "model_flavour": ask_weights,
    "max_train_steps": ask_length,
    "data_backend_config": ask_data_file,
    "lycoris_config": ask_lycoris,
}
"""Setting -> the way to ask for it, where that is not `ask_setting`."""
