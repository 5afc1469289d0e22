"""Which number formats Cosmos2's parts may be stored in: the published ones."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.types import PartPolicy, QuantisationPolicy

_REASON = "Cosmos2 is not to be quantised; use no_change, gradient_checkpointing and small batches to save memory"
_SCHEMES = (
    "int8-quanto",
    "int4-quanto",
    "int2-quanto",
    "fp8-quanto",
    "int8-torchao",
    "int4-torchao",
    "fp8-torchao",
    "nf4-bnb",
)


def cosmos2_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy: every format but the published one is refused, for every part that has others elsewhere."""
    refused = dict.fromkeys(_SCHEMES, _REASON)
    return QuantisationPolicy({"text_encoders": PartPolicy(refused=refused), "denoiser": PartPolicy(refused=refused)})
