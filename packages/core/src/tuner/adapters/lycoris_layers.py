"""Which layers a LyCORIS file adapts, and with which settings each.

The rules are upstream's for classes, and two that upstream lacks: a name pattern beats a class, and without
target_module a map of names adapts these layers alone.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from tuner.config.lycoris import LayerSettings, LycorisPreset
from tuner.errors import ConfigError, Problem

ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_EXCLUDE = "exclude "
DEFAULT_CLASSES = ("Attention", "FeedForward")
"""What is adapted when a file names nothing."""

Matcher = Callable[[str, str], bool]


@dataclass(frozen=True)
class Layer:
    """A layer to adapt. `settings` replace those at the top of the file; None where nothing does."""

    name: str
    module: nn.Module
    settings: LayerSettings | None


@dataclass(frozen=True)
class Selection:
    """The layers in the model's order, and how many each class or pattern of the file matched."""

    layers: tuple[Layer, ...]
    matches: Mapping[str, int]


def select_layers(
    denoiser: nn.Module, preset: LycorisPreset, aliases: Mapping[str, Sequence[str]], file: str
) -> Selection:
    """Apply a preset to a model.

    Args:
        denoiser: The model.
        preset: What the file says.
        aliases: Class name as people write it -> the model's own class names.
        file: The file, for messages.

    Raises:
        ConfigError: A class or pattern matches nothing or is malformed; all such are reported at once.
    """
    return _Selector(denoiser, preset, aliases, file).select()


class _Selector:
    def __init__(
        self, denoiser: nn.Module, preset: LycorisPreset, aliases: Mapping[str, Sequence[str]], file: str
    ) -> None:
        self.modules = dict(denoiser.named_modules())
        self.preset = preset
        self.aliases = aliases
        self.file = file
        self.problems: list[Problem] = []
        self.match = _matcher(preset.use_fnmatch)
        self.names = [
            name
            for name, module in self.modules.items()
            if isinstance(module, ADAPTABLE) and (preset.enable_conv or not _is_wide(module))
        ]

    def select(self) -> Selection:
        self._check_patterns()
        excluded = self._excluded()
        classes = self._classes()
        matches = dict.fromkeys((_EXCLUDE + pattern for pattern in self.preset.exclude_name), 0)
        matches |= dict.fromkeys((*classes, *self.preset.name_algo_map, *self.preset.target_name), 0)
        layers = []
        for name in self.names:
            if hits := [pattern for pattern in self.preset.exclude_name if name in excluded[pattern]]:
                _count(matches, (_EXCLUDE + pattern for pattern in hits))
                continue
            lineage = self._lineage(name)
            by_class = [asked for asked, own in classes.items() if own & set(lineage)]
            pattern = self._pattern(name)
            _count(matches, by_class)
            if pattern is not None:
                _count(matches, [pattern])
            if by_class or pattern is not None:
                layers.append(Layer(name, self.modules[name], self._settings(pattern, lineage)))
        self._refuse_idle(matches)
        return Selection(tuple(layers), matches)

    def _classes(self) -> dict[str, frozenset[str]]:
        """Return the class names asked for -> the model's own."""
        preset = self.preset
        asked = list(dict.fromkeys([*(preset.target_module or ()), *preset.module_algo_map]))
        if not asked and not preset.name_algo_map and not preset.target_name and preset.target_module is None:
            asked = [name for name in DEFAULT_CLASSES if self._own(name) & self._classes_with_layers()]
            if not asked:
                self.problems.append(self._idle(" and ".join(DEFAULT_CLASSES), "the default classes match no layer"))
        return {name: self._own(name) for name in asked}

    def _own(self, asked: str) -> frozenset[str]:
        return frozenset(self.aliases.get(asked, (asked,)))

    def _lineage(self, name: str) -> list[str]:
        """Return the class names of a layer and of the modules around it, the layer's first."""
        return [type(self.modules[path]).__name__ for path in _paths(name)]

    def _pattern(self, name: str) -> str | None:
        """Return the first pattern that matches a layer, an exact name before all others."""
        patterns = (*self.preset.name_algo_map, *self.preset.target_name)
        if name in patterns:
            return name
        return next((pattern for pattern in patterns if self.match(pattern, name)), None)

    def _settings(self, pattern: str | None, lineage: list[str]) -> LayerSettings | None:
        if pattern in self.preset.name_algo_map:
            return self.preset.name_algo_map[pattern]
        for own in lineage:
            for asked, settings in self.preset.module_algo_map.items():
                if own in self._own(asked):
                    return settings
        return None

    def _excluded(self) -> dict[str, set[str]]:
        """Return pattern -> the layers that it, or a match on a module around them, leaves alone."""
        excluded = {}
        for pattern in self.preset.exclude_name:
            roots = {name for name in self.modules if name and (name == pattern or self.match(pattern, name))}
            excluded[pattern] = {name for name in self.names if not roots.isdisjoint(_paths(name))}
        return excluded

    def _check_patterns(self) -> None:
        """Refuse malformed regular expressions before any is used."""
        patterns = (*self.preset.name_algo_map, *self.preset.target_name, *self.preset.exclude_name)
        for pattern in () if self.preset.use_fnmatch else patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                self.problems.append(
                    Problem(
                        f"{pattern!r} is no regular expression: {error}",
                        file=self.file,
                        key="apply_preset",
                        remedy="correct it, or set use_fnmatch to true if it is a glob such as *.to_q",
                    )
                )
        if self.problems:
            raise ConfigError(self.problems)

    def _refuse_idle(self, matches: Mapping[str, int]) -> None:
        for asked, count in matches.items():
            if not count:
                shown = asked.removeprefix(_EXCLUDE)
                self.problems.append(self._idle(asked, f"{shown!r} matches no layer of this model"))
        if self.problems:
            raise ConfigError(self.problems)

    def _idle(self, asked: str, message: str) -> Problem:
        classes = sorted({*self._classes_with_layers(), *self.aliases})
        is_pattern = asked in (*self.preset.name_algo_map, *self.preset.target_name) or asked.startswith(_EXCLUDE)
        known: Iterable[str] = self.names if is_pattern else classes
        near = difflib.get_close_matches(asked.removeprefix(_EXCLUDE), known, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}?" if near else "take it out"
        kind = f"layers are named like {', '.join(self.names[:3])}" if is_pattern else f"it has {', '.join(classes)}"
        return Problem(f"{message}; {kind}", file=self.file, key=self._key(asked), remedy=hint)

    def _key(self, asked: str) -> str:
        preset = self.preset
        if asked.startswith(_EXCLUDE):
            return "apply_preset.exclude_name"
        for key in ("name_algo_map", "target_name", "module_algo_map", "target_module"):
            if asked in (getattr(preset, key) or ()):
                return f"apply_preset.{key}"
        return "apply_preset"

    def _classes_with_layers(self) -> set[str]:
        return {own for name in self.names for own in self._lineage(name)}


def _paths(name: str) -> list[str]:
    """Return a layer's name and those of the modules around it, from the inside out."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _is_wide(module: nn.Module) -> bool:
    """Whether a layer is a convolution with a kernel larger than 1."""
    return any(side > 1 for side in getattr(module, "kernel_size", ()))


def _matcher(use_fnmatch: bool) -> Matcher:
    """Return (pattern, name) -> whether it matches, in upstream's way: a regular expression from the start."""
    if use_fnmatch:
        return lambda pattern, name: fnmatch.fnmatchcase(name, pattern)
    return lambda pattern, name: re.match(pattern, name) is not None


def _count(matches: dict[str, int], hits: Iterable[str]) -> None:
    for hit in hits:
        matches[hit] += 1
