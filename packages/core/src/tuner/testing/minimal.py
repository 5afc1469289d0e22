"""Facts of a family that exists in tests alone."""

from __future__ import annotations

from typing import Any

from tuner.types import FamilyFacts, Flavour


def minimal_facts(**given: Any) -> FamilyFacts:
    """Return facts with nothing in them but what every family has; `given` replaces or adds fields."""
    fields: dict[str, Any] = {
        "name": "test",
        "title": "Test",
        "flavours": {"a": Flavour("owner/a")},
        "default_flavour": "a",
        "latent_channels": 4,
        "latent_stride": 8,
        "patch_size": 1,
        "pixel_alignment": 8,
        "token_limit": 8,
        "adapter_targets": (),
        "part_folders": {"denoiser": ("transformer",)},
        "licence": "mit",
    }
    return FamilyFacts(**{**fields, **given})
