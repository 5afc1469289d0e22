"""Which number formats NewFamily's parts may be stored in."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.types import PartPolicy, QuantisationPolicy


def newfamily_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy: nothing but the published formats. Allow others once you have measured their error."""
    return QuantisationPolicy({"text_encoders": PartPolicy(), "denoiser": PartPolicy()})
