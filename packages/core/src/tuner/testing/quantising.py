"""The cells of the support matrix, and models stored as a cell says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from tuner.plugins import Family, create_manager
from tuner.quantisation.schemes import SCHEMES, UNQUANTISED
from tuner.quantisation.storing import StoringReport, restore_floats, store_frozen
from tuner.testing.family import FamilyUnderTest
from tuner.types import Components, Part

ADAPTERS = ("standard", "lokr")
"""Adapters that are trained on every stored denoiser, by their names in `tuner.testing.learning.KINDS`."""

DTYPES = {"bf16": torch.bfloat16, "no": torch.float32}
"""Values of mixed_precision in which every cell is proven -> the compute dtype."""

Weights = Literal["published", "stored", "rounded"]
"""As published; stored quantised; or ordinary layers that hold the rounded values of the stored ones."""


@dataclass(frozen=True)
class Cell:
    """One thing that is proven: a part, stored by a scheme, in a compute dtype.

    Attributes:
        part: The denoiser or the text encoders.
        scheme: A value of the precision settings; `no_change` is one too.
        mixed_precision: A key of `DTYPES`.
    """

    part: Part
    scheme: str
    mixed_precision: str

    def __str__(self) -> str:
        return f"{self.part}-{self.scheme}-{self.mixed_precision}"

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return DTYPES[self.mixed_precision]


def cells(family: Family, part: Part) -> Iterator[Cell]:
    """Yield a cell for everything that a family's policy allows for a part."""
    policy = create_manager(family).hook.quantisation_policy(options=family.facts.options()).parts.get(part)
    for scheme in policy.allowed if policy is not None else (UNQUANTISED,):
        yield from (Cell(part, scheme, precision) for precision in DTYPES)


def load_cell(family: FamilyUnderTest, cell: Cell, weights: Weights) -> tuple[Components, list[StoringReport]]:
    """Load a part of the family's twin on the CPU, and say how each of its networks is stored.

    Raises:
        AssertionError: The scheme's library is not installed.
    """
    request = replace(family.request(cell.part), dtype=cell.dtype)
    components: Components = family.hooks.load_components(request=request)
    if weights == "published" or cell.scheme == UNQUANTISED:
        return components, []
    library = SCHEMES[cell.scheme].library
    assert library.installed(), f"{cell.scheme} is allowed; to prove it, pip install 'tuner-core[{library.extra}]'"
    networks = [components.denoiser] if components.denoiser is not None else list(components.text_encoders.values())
    policy = family.hooks.quantisation_policy(options=family.facts.options()).parts[cell.part]
    reports = []
    for network in networks:
        cpu = torch.device("cpu")
        reports.append(store_frozen(network, SCHEMES[cell.scheme], policy.skip_layers, via=cpu, device=cpu))
        if weights == "rounded":
            restore_floats(network)
    return components, reports
