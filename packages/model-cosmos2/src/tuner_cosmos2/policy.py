"""Which number formats Cosmos2's parts may be stored in: the published ones."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.family.precision import published_format_only
from tuner.types import QuantisationPolicy

_REASON = "Cosmos2 is not to be quantised; use no_change, gradient_checkpointing and small batches to save memory"


def cosmos2_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy: every format but the published one is refused, for every part that has others elsewhere."""
    return QuantisationPolicy(
        {"text_encoders": published_format_only(_REASON), "denoiser": published_format_only(_REASON)}
    )
