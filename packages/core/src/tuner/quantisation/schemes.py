"""The table of schemes by which frozen weights can be stored. Imports no torch and none of the libraries."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

UNQUANTISED = "no_change"
"""The value of a precision setting that leaves weights in the compute dtype."""


@dataclass(frozen=True)
class Library:
    """What converts weights and computes with them.

    Attributes:
        name: Short name, the end of its schemes' names.
        package: Its distribution, as pip knows it.
        extra: The core's extra that installs it.
        backend: The module that uses it, with the functions `store`, `dequantised` and `stored_bytes`.
    """

    name: str
    package: str
    extra: str
    backend: str

    def installed(self) -> bool:
        """Whether the library is there; imports nothing."""
        try:
            importlib.metadata.distribution(self.package)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def load(self) -> ModuleType:
        """Import the backend, and with it the library."""
        return importlib.import_module(self.backend)


@dataclass(frozen=True)
class Scheme:
    """One way to store the weight of a linear layer.

    Attributes:
        name: Value of the precision settings.
        library: What does it.
        form: The library's own name of the format.
        bits: Bits per weight, scales left out.
        error: Bound of the relative error (of L2 norms) of a denoiser's velocity: what the families' twins show in
            bfloat16 at most, with a margin of a half and more.
        multiple: Layers whose input features are no multiple of this stay as they are.
        devices: Device types that it computes on.
    """

    name: str
    library: Library
    form: str
    bits: int
    error: float
    multiple: int = 1
    devices: tuple[str, ...] = ("cpu", "cuda", "mps", "xpu")


_QUANTO = Library("quanto", "optimum-quanto", "quanto", "tuner.quantisation.quanto")
_TORCHAO = Library("torchao", "torchao", "torchao", "tuner.quantisation.torchao")
_BNB = Library("bnb", "bitsandbytes", "bitsandbytes", "tuner.quantisation.bnb")

_FLOAT8 = ("cpu", "cuda", "xpu")

SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        # With other sizes quanto's bfloat16 kernel for the CPU reads beyond its input, which ends the process.
        Scheme("int8-quanto", _QUANTO, "qint8", 8, 0.02, multiple=16),
        Scheme("int4-quanto", _QUANTO, "qint4", 4, 0.2),
        Scheme("int2-quanto", _QUANTO, "qint2", 2, 0.9),
        Scheme("fp8-quanto", _QUANTO, "qfloat8_e4m3fn", 8, 0.1, devices=_FLOAT8),
        Scheme("fp8uz-quanto", _QUANTO, "qfloat8_e4m3fnuz", 8, 0.1, devices=_FLOAT8),
        Scheme("int8-torchao", _TORCHAO, "int8", 8, 0.02),
        Scheme("fp8-torchao", _TORCHAO, "float8", 8, 0.1, devices=_FLOAT8),
        # In groups of 32; torchao keeps each value in a byte.
        Scheme("int4-torchao", _TORCHAO, "int4", 8, 0.25, multiple=32),
        # In blocks of 64.
        Scheme("nf4-bnb", _BNB, "nf4", 4, 0.25, multiple=64, devices=("cpu", "cuda", "xpu")),
    )
}
"""Every scheme by name."""
