"""Names of layers: diffusers' own, those of the original checkpoint, and LyCORIS', which has no dots."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuner.adapters.lokr import upstream_name
from tuner.errors import ExportError
from tuner.types import FamilyFacts, OriginalLayer


@dataclass(frozen=True)
class Place:
    """Where a layer is in the original checkpoint: row block `part` of `parts` equal ones of a layer."""

    original: str
    part: int
    parts: int


class LayerNames:
    """The names of a family's layers, one to one.

    Args:
        facts: The family's facts.
    """

    def __init__(self, facts: FamilyFacts) -> None:
        self._title = facts.title
        self._layers = facts.original_layers

    def place_of(self, layer: str) -> Place:
        """Return the place of a layer, given by its name in diffusers.

        Raises:
            ExportError: The family's facts have no name for it.
        """
        for entry in self._layers:
            for part, template in enumerate(entry.layers):
                if (numbers := _numbers(template, layer)) is not None:
                    return Place(entry.original.format(*numbers), part, len(entry.layers))
        raise ExportError(
            f"{self._title} has no name for layer {layer} in its original checkpoint\n    -> use another format"
        )

    def layers_of(self, original: str) -> tuple[str, ...]:
        """Return the names in diffusers of what a layer of the original checkpoint holds, in the order of its rows.

        Raises:
            ExportError: The family has no such layer.
        """
        for entry in self._layers:
            if (numbers := _numbers(entry.original, original)) is not None:
                return tuple(template.format(*numbers) for template in entry.layers)
        raise self._unknown(original)

    def dotted(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return LyCORIS' name of each layer -> its name in diffusers.

        Raises:
            ExportError: The family has no such layer.
        """
        return {name: self._dotted(name) for name in names}

    def _dotted(self, name: str) -> str:
        for entry in self._layers:
            for template in entry.layers:
                if (numbers := _numbers(upstream_name(template), name)) is not None:
                    return template.format(*numbers)
        raise self._unknown(name)

    def _unknown(self, name: str) -> ExportError:
        return ExportError(
            f"{name} is none of the layers that {self._title} gives names to\n    -> name the family that the file was "
            "made for, or use it in the format that it has"
        )


def templates_of(layers: Iterable[OriginalLayer]) -> list[str]:
    """Return diffusers' names of layers, with `{}` for numbers."""
    return [template for entry in layers for template in entry.layers]


def _numbers(template: str, name: str) -> tuple[str, ...] | None:
    """Return the numbers of a name that fits a template, or None."""
    match = re.fullmatch(re.escape(template).replace(r"\{\}", r"(\d+)"), name)
    return match.groups() if match else None
