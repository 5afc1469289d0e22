"""The hooks of the NewFamily family. Each imports its own file when it is called, so this one imports no torch."""

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
    """Give the data sheet."""
    from tuner_newfamily.facts import newfamily

    return newfamily()


@hookimpl
def quantisation_policy(options: pydantic.BaseModel) -> QuantisationPolicy:
    """Say which formats the parts may be stored in."""
    from tuner_newfamily.policy import newfamily_policy

    return newfamily_policy()


@hookimpl
def load_components(request: ComponentRequest) -> Components:
    """Load the parts asked for."""
    from tuner_newfamily.loading import load_newfamily

    return load_newfamily(request)


@hookimpl
def encode_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts."""
    from tuner_newfamily.text import encode_newfamily_prompt

    return encode_newfamily_prompt(components, prompts, role)


@hookimpl
def compute_loss(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity."""
    from tuner_newfamily.velocity import predict_velocity

    return predict_velocity(components, batch)


@hookimpl
def validation_pipeline(components: Components) -> Sampler:
    """Wrap the live denoiser in its diffusers pipeline."""
    from tuner_newfamily.pipeline import create_sampler

    return create_sampler(components)


@hookimpl
def make_twin(folder: Path) -> Path:
    """Write the twin."""
    from tuner_newfamily.twin import write_twin

    return write_twin(folder)
