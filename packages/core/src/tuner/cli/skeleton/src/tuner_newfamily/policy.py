"""Which number formats NewFamily's parts may be stored in."""

from __future__ import annotations

from tuner.types import PartPolicy, QuantisationPolicy


def newfamily_policy() -> QuantisationPolicy:
    """Return the policy: nothing but the published formats. Allow others once you have measured their error."""
    return QuantisationPolicy({"text_encoders": PartPolicy(), "denoiser": PartPolicy()})
