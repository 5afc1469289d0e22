"""A session of `tuner configure`: the menu, and what is known about the run so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tuner.cli.configure.asking import ask_setting, describe
from tuner.cli.configure.catalogue import USUAL, settings_of_run, show
from tuner.cli.configure.draft import MISSING, Draft
from tuner.cli.configure.questions import ASKERS
from tuner.cli.configure.review import review
from tuner.cli.configure.sheet import Sheet
from tuner.cli.configure.terminal import Back, ask_choice, explain, say
from tuner.config.loading import changed_defaults
from tuner.config.receipt import scrubbed
from tuner.config.references import Reading
from tuner.config.topics import TOPICS
from tuner.errors import PluginError
from tuner.plugins import Family, load_family


class Session:
    """Edits one configuration.

    Attributes:
        sheet: The configuration.
        lycoris: The LyCORIS file, once it was asked about.
        family: The family, once a working one is chosen.
    """

    def __init__(self, draft: Draft) -> None:
        self.sheet = Sheet(draft, settings_of_run(None))
        self.lycoris: Sheet | None = None
        self.family: Family | None = None
        self._family_name: Any = MISSING
        self.follow_family()

    def follow_family(self) -> None:
        """Take over the settings and defaults of the family and the flavour that the answers name."""
        name = self.sheet.value("model_family")
        if name != self._family_name:
            self._family_name, self.family = name, _load(name)
        if self.family is None:
            self.sheet.settings, self.sheet.defaults = settings_of_run(None), {}
            return
        facts = self.family.facts
        self.sheet.settings = settings_of_run(facts.options)
        own = self.sheet.present("pretrained_model_name_or_path") is not MISSING
        named = self.sheet.present("model_flavour")
        flavour = str(None if own and named is MISSING else self.sheet.value("model_flavour"))
        self.sheet.defaults = {"model_flavour": facts.default_flavour, **changed_defaults(facts, flavour)}

    def advice_beside(self, others: Collection[str]) -> Mapping[str, str]:
        """Return the family's advice that belongs to none of the settings named, and to no topic."""
        advice = self.family.facts.advice if self.family else {}
        return {name: text for name, text in advice.items() if name not in others and name not in TOPICS}

    def locate(self, key: str) -> Path | None:
        """Return the file that a setting names, if it is there."""
        value = self.sheet.value(key)
        return None if value is MISSING else Reading(self.sheet.draft.path.parent).find(value, None, key)

    def place_for(self, key: str) -> Path | None:
        """Return where a file that is not there yet is to be written: a bare name stands beside the configuration."""
        value = self.sheet.value(key)
        if value is MISSING:
            return None
        path = Path(value).expanduser()
        return self.sheet.draft.path.parent / path if len(path.parts) == 1 else path

    def drafts(self) -> list[Draft]:
        """Return the files to save, the configuration last."""
        lycoris = self.lycoris
        reads_lycoris = self.sheet.value("lora_type") == "lycoris" and not self.sheet.unmet_needs("lycoris_config")
        return [*([lycoris.draft] if lycoris and reads_lycoris else []), self.sheet.draft]

    def clash(self) -> str | None:
        """Say which file may not be saved: the data set file is never written, and no file serves two purposes."""
        folder, named = self.sheet.draft.path.parent, self.sheet.value("data_backend_config")
        taken: dict[Path, str] = {}
        if named is not MISSING:
            places = [named, folder / named, folder / named.name, Path("config") / named.name]
            taken = {place.expanduser().resolve(): "the data set file, which is never written" for place in places}
        for draft in reversed(self.drafts()):
            path = draft.path.expanduser().resolve()
            if path in taken and draft.changed:
                return f"{draft.path} is {taken[path]}; give the two files different names"
            taken[path] = "the configuration itself"
        return None

    def ask(self, key: str) -> None:
        """Ask for one setting."""
        inert = self.family.facts.inert_settings.get(key) if self.family else None
        advice = self.family.facts.advice.get(key) if self.family else None
        notes = [f"has no effect in this family: {inert}"] if inert else []
        describe(self.sheet, key, notes + ([f"advice: {advice}"] if advice else []))
        if key in ASKERS:
            ASKERS[key](self)
        else:
            ask_setting(self.sheet, key)
        self.follow_family()

    def ask_topic(self, topic: str) -> None:
        """Ask for the usual settings of a topic that are read in this run."""
        say(f"\n=== {topic}: {_about(topic)}", "bold fg:ansicyan")
        if self.family and topic in self.family.facts.advice:
            explain(f"advice: {self.family.facts.advice[topic]}", "italic")
        for key in usual_settings(topic):
            inert = self.family is not None and key in self.family.facts.inert_settings
            if not inert and not self._skips(key):
                self.ask(key)

    def look_up(self, keys: list[str]) -> None:
        """Let people change any of some settings, until they go back."""
        pointed = 0
        while True:
            titles = ["back to the menu", *(self._title(key) for key in keys)]
            about = [None, *(self.sheet.settings[key].field.description for key in keys)]
            pointed = ask_choice("setting", titles, pointed, about)
            if pointed == 0:
                return
            self.ask(keys[pointed - 1])

    def run(self) -> bool:
        """Show the menu until people save or cancel; return whether they saved."""
        topics = list(TOPICS)
        entries = [
            "all usual questions, one after another",
            *topics,
            "any setting, by name",
            "review and save",
            "cancel",
        ]
        pointed = 0
        while True:
            try:
                say("")
                pointed = ask_choice("menu", entries, pointed, [_about(entry) for entry in entries])
                if entries[pointed] == "cancel":
                    return False
                if entries[pointed] == "review and save":
                    decision = review(self.sheet, self.lycoris, self.drafts())
                    if decision and (clash := self.clash()):
                        say(clash, "fg:ansired")
                    elif decision is not None:
                        return decision
                else:
                    self._visit(entries[pointed])
            except Back:
                continue
            pointed = entries.index("review and save")

    def _visit(self, entry: str) -> None:
        if entry == "any setting, by name":
            self.look_up(list(self.sheet.settings))
        elif entry not in TOPICS:
            for topic in TOPICS:
                if usual_settings(topic):
                    self.ask_topic(topic)
        elif usual_settings(entry):
            self.ask_topic(entry)
        else:
            self.look_up([key for key, setting in self.sheet.settings.items() if setting.topic == entry])

    def _skips(self, key: str) -> bool:
        """Whether nothing reads a setting; weights of one's own are asked for in place of a flavour."""
        return key != "model_flavour" and bool(self.sheet.unmet_needs(key))

    def _title(self, key: str) -> str:
        value = self.sheet.present(key)
        default = f"(default {show(self.sheet.default(key)) or 'none'})"
        return f"{key} = {default if value is MISSING else show(scrubbed(key, value))}"


def _about(topic: str) -> str | None:
    """Return what a topic is about; None for other entries of the menu."""
    return (TOPICS[topic].__doc__ or "").splitlines()[0] if topic in TOPICS else None


def _load(name: Any) -> Family | None:
    try:
        return None if name is MISSING else load_family(str(name))
    except PluginError:
        return None  # the review says why


def usual_settings(topic: str) -> list[str]:
    """Return the usual settings of a topic, as far as the models have them."""
    return [key for key in USUAL if key in TOPICS[topic].model_fields]
