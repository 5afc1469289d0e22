"""Failures that a user can cause. They carry value, rule and remedy and are shown without a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class TunerError(Exception):
    """An expected failure. The command line prints its message alone and exits with `exit_code`."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in what the user gave us.

    Attributes:
        message: What is wrong and what is accepted; ends without a full stop.
        file: The file that holds it, or a name such as "command line".
        key: The setting concerned.
        remedy: What to do about it.
    """

    message: str
    file: str | None = None
    key: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.key) if part)
        text = f"{place}: {self.message}" if place else self.message
        return f"{text}\n    -> {self.remedy}" if self.remedy else text


class ConfigError(TunerError):
    """Everything that is wrong with a configuration or data set file, reported at once."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(
            "\n".join([f"{head} found; nothing was loaded or written", *(f"  - {p}" for p in self.problems)])
        )


class PluginError(TunerError):
    """A model family or extension that is missing, broken or does not follow the contract."""


class DatasetError(TunerError):
    """A data set that cannot be trained on as it is."""


class CacheError(TunerError):
    """A cache that cannot be read or written."""


class CheckpointError(TunerError):
    """A checkpoint that is missing, incomplete or damaged, or does not belong to this run."""


class ExportError(TunerError):
    """A saved model that, re-opened, does not give what the trained one gives."""


class NonFiniteError(TunerError):
    """A loss, gradient, latent or embedding that is NaN or infinite."""


class WeightsFileError(TunerError):
    """A file of weights that is missing, damaged or in another format than safetensors."""
