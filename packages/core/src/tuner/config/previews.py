"""Whether a run shows pictures while they are sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuner.types import FamilyFacts

if TYPE_CHECKING:
    from tuner.config.run import RunConfig


def preview_autoencoder(config: RunConfig, facts: FamilyFacts) -> str | None:
    """Return the tiny autoencoder of a run's previews, a folder or a repository of the hub."""
    return config.validation.validation_preview_autoencoder or facts.tiny_autoencoder


def preview_obstacle(config: RunConfig, facts: FamilyFacts) -> str | None:
    """Return why there can be no previews; None if there can."""
    if not config.webhooks:
        return "no webhook is there to send previews to; webhook_config names one"
    if preview_autoencoder(config, facts) is None:
        return f"{facts.title} has no tiny autoencoder; validation_preview_autoencoder names one"
    return None
