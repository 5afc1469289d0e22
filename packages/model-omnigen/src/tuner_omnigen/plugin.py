"""The hooks of the OmniGen family. Each imports its own file when it is called, so this one imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import hookimpl

if TYPE_CHECKING:
    import pydantic

    from tuner.types import (
        Batch,
        ComponentRequest,
        Components,
        Conditioning,
        FamilyFacts,
        Prediction,
        QuantisationPolicy,
        Role,
        Sampler,
    )


@hookimpl
def describe_family() -> FamilyFacts:
    """Give OmniGen's data sheet."""
    from tuner_omnigen.facts import omnigen

    return omnigen()


@hookimpl
def quantisation_policy(options: pydantic.BaseModel) -> QuantisationPolicy:
    """Say which formats OmniGen's parts may be stored in, whatever the options."""
    from tuner_omnigen.policy import omnigen_policy

    return omnigen_policy()


@hookimpl
def load_components(request: ComponentRequest) -> Components:
    """Load the parts asked for."""
    from tuner_omnigen.loading import load_omnigen

    return load_omnigen(request)


@hookimpl
def encode_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Turn prompts into token ids."""
    from tuner_omnigen.text import encode_omnigen_prompt

    return encode_omnigen_prompt(components, prompts, role)


@hookimpl
def compute_loss(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity."""
    from tuner_omnigen.velocity import predict_velocity

    return predict_velocity(components, batch)


@hookimpl
def validation_pipeline(components: Components) -> Sampler:
    """Wrap the live denoiser in diffusers' OmniGenPipeline."""
    from tuner_omnigen.pipeline import create_sampler

    return create_sampler(components)


@hookimpl
def make_twin(folder: Path) -> Path:
    """Write OmniGen's twin."""
    from tuner_omnigen.twin import write_twin

    return write_twin(folder)
