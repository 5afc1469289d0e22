"""A file's settings together with what the models say of them: present values, defaults, answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.cli.configure.catalogue import Setting, judge
from tuner.cli.configure.draft import MISSING, Draft
from tuner.config.receipt import meets
from tuner.config.settings import field_extra


@dataclass
class Sheet:
    """What questions are asked about.

    Attributes:
        draft: The file.
        settings: Its settings by name.
        defaults: Defaults that differ from the models'.
    """

    draft: Draft
    settings: Mapping[str, Setting]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def present(self, key: str) -> Any:
        """Return what the file is to hold, as it stands there; `MISSING` where it is absent or blank."""
        value = self.draft.find(self.settings[key].names)
        return MISSING if isinstance(value, str) and not value.strip() else value

    def default(self, key: str) -> Any:
        """Return what holds where nothing is given; `MISSING` where something must be."""
        return self.defaults.get(key, self.settings[key].default)

    def value(self, key: str) -> Any:
        """Return what a run would read, as the model holds it; `MISSING` where that is nothing valid."""
        given = self.present(key)
        if given is MISSING:
            given = self.default(key)
        if given is MISSING:
            return MISSING
        verdict = judge(self.settings[key], given)
        return MISSING if verdict.message else verdict.value

    def answer(self, key: str, value: Any) -> None:
        """Take an answer. One that says what held before changes nothing, not even the notation."""
        setting = self.settings[key]
        if self.value(key) is MISSING or judge(setting, value).value != self.value(key):
            self.draft.put(setting.names, value)

    def clear(self, key: str) -> None:
        """Go back to the default, by taking the setting out."""
        if self.present(key) is not MISSING:
            self.draft.drop(self.settings[key].names)

    def unmet_needs(self, key: str) -> list[str]:
        """Return what keeps a setting from being read, such as "model_type is full"."""
        needs: Mapping[str, tuple[Any, ...]] = field_extra(self.settings[key].field, "needs", {})
        values = {other: self.value(other) for other in needs if other in self.settings}
        return [
            f"{other} is {'not set' if value in (None, MISSING) else value}"
            for other, value in values.items()
            if not meets(None if value is MISSING else value, needs[other])
        ]
