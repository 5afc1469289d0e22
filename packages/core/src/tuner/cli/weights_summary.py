"""What kind of weights files hold, told from the names and shapes of their tensors. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.provenance import TensorFact

_Shape = tuple[int, ...]


def _first(shape: _Shape) -> int:
    return shape[0]


_FORMATS: Mapping[str, Mapping[str, Callable[[_Shape], int] | None]] = {
    "LoRA (PEFT's and diffusers' names)": {".lora_A.weight": _first, ".lora_B.weight": None},
    "LoRA (kohya's and LyCORIS' names)": {
        ".lora_down.weight": _first, ".lora_up.weight": None, ".lora_mid.weight": None,
    },
    "LoKr": {
        ".lokr_w1": None, ".lokr_w2": None, ".lokr_w1_a": None, ".lokr_w1_b": _first, ".lokr_w2_a": None,
        ".lokr_w2_b": _first, ".lokr_t2": None,
    },
    "LoHa": {
        ".hada_w1_a": None, ".hada_w1_b": _first, ".hada_w2_a": None, ".hada_w2_b": _first, ".hada_t1": None,
        ".hada_t2": None,
    },
    "GLoRA": {".a1.weight": _first, ".a2.weight": None, ".b1.weight": None, ".b2.weight": None},
    "OFT": {".oft_blocks": None, ".oft_diag": None},
    "IA3": {".on_input": None},
    "full differences": {".diff": None, ".diff_b": None, ".w_norm": None, ".b_norm": None},
}  # fmt: skip
"""Kind of adapter -> endings of its tensors' names -> how the rank follows from the shape, where it does."""

_BESIDE = (".alpha", ".dora_scale", ".lora_magnitude_vector", ".scalar")
"""Endings of what stands beside the matrices of several kinds."""

WHOLE = "weights of a whole network"


@dataclass(frozen=True)
class WeightsSummary:
    """What some tensors are.

    Attributes:
        kinds: Kind -> layers of it.
        ranks: Rank -> layers of it; empty where nothing has a rank.
        dtypes: dtype, by the name it has in safetensors -> tensors of it.
        layers: Names of the layers, in the order of the names.
        tensors: Number of tensors.
        parameters: Number of values.
        size: Bytes.
        is_dora: Whether magnitudes are trained apart from directions.
    """

    kinds: Mapping[str, int]
    ranks: Mapping[int, int]
    dtypes: Mapping[str, int]
    layers: tuple[str, ...]
    tensors: int
    parameters: int
    size: int
    is_dora: bool

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "kinds": dict(self.kinds),
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "dtypes": dict(self.dtypes),
            "layers": list(self.layers),
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.size,
            "dora": self.is_dora,
        }

    def lines(self) -> list[str]:
        """Return lines for people."""
        kinds = ", ".join(f"{kind} on {count} layers" for kind, count in self.kinds.items())
        lines = [f"kind: {kinds}{', with DoRA' if self.is_dora else ''}"]
        if self.ranks:
            lines.append("rank: " + ", ".join(f"{rank} ({count} layers)" for rank, count in self.ranks.items()))
        elif "LoKr" in self.kinds:
            lines.append("rank: none, the matrices are not factorised further")
        dtypes = ", ".join(f"{dtype} ({count} tensors)" for dtype, count in self.dtypes.items())
        lines.append(f"size: {self.parameters:,} parameters in {self.tensors} tensors, {self.size / 1e6:,.2f} MB")
        lines.append(f"dtype: {dtypes}")
        shown = ", ".join(self.layers[:3])
        lines.append(f"layers: {shown}{f' and {len(self.layers) - 3} more' if len(self.layers) > 3 else ''}")
        return lines


def summarise(tensors: Iterable[TensorFact]) -> WeightsSummary:
    """Tell what tensors are."""
    facts = sorted(tensors, key=lambda fact: fact.name)
    kinds: dict[str, set[str]] = {}
    ranks: dict[str, int] = {}
    for fact in facts:
        layer, kind, rank = _classify(fact)
        if kind is not None:
            kinds.setdefault(kind, set()).add(layer)
        if rank is not None:
            ranks[layer] = max(rank, ranks.get(layer, 0))
    layers = sorted(set().union(*kinds.values()))
    return WeightsSummary(
        kinds={kind: len(names) for kind, names in sorted(kinds.items())},
        ranks=dict(sorted(Counter(ranks.values()).items())),
        dtypes=dict(sorted(Counter(fact.dtype for fact in facts).items())),
        layers=tuple(layers),
        tensors=len(facts),
        parameters=sum(fact.count for fact in facts),
        size=sum(fact.size for fact in facts),
        is_dora=any(fact.name.endswith((".dora_scale", ".lora_magnitude_vector")) for fact in facts),
    )


def _classify(fact: TensorFact) -> tuple[str, str | None, int | None]:
    """Return the layer of a tensor, the kind of adapter (None for what stands beside one) and the rank."""
    for kind, endings in _FORMATS.items():
        for ending, rank in endings.items():
            if fact.name.endswith(ending):
                return fact.name.removesuffix(ending), kind, rank(fact.shape) if rank and fact.shape else None
    for ending in _BESIDE:
        if fact.name.endswith(ending):
            return fact.name.removesuffix(ending), None, None
    return fact.name.rpartition(".")[0] or fact.name, WHOLE, None
