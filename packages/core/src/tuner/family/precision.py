"""What families say of number formats, for those that have nothing special to say. Imports no torch."""

from __future__ import annotations

from tuner.quantisation.schemes import SCHEMES, UNQUANTISED
from tuner.types import PartPolicy

PROVEN = (UNQUANTISED, "int8-quanto", "int4-quanto", "int8-torchao", "fp8-torchao", "nf4-bnb")
"""Formats that are worth their error; the conformance kit proves them for each family that allows them."""

_FLOAT8 = "as large as int8-quanto, with eight times its error (0.04 against 0.005); use int8-quanto"

INFERIOR = {
    "fp8-quanto": _FLOAT8,
    "fp8uz-quanto": _FLOAT8,
    "int2-quanto": "its error is half of the output (0.49); use int4-quanto or int8-quanto",
    "int4-torchao": (
        "torchao keeps 4-bit values in whole bytes, so it is no smaller than int8-torchao, with fifteen times its "
        "error (0.09 against 0.006); use int4-quanto"
    ),
}
"""Formats that another one beats in every respect -> which, and by how much."""


def proven_formats(*skip_layers: str) -> PartPolicy:
    """Allow what is proven, and discourage what is inferior.

    Args:
        *skip_layers: Glob patterns of layers that stay as they are.
    """
    return PartPolicy(PROVEN, skip_layers=skip_layers, discouraged=INFERIOR)


def published_format_only(reason: str) -> PartPolicy:
    """Refuse every format but the published one, for one reason."""
    return PartPolicy(refused=dict.fromkeys(SCHEMES, reason))
