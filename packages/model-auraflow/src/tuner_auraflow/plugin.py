"""The hooks of the AuraFlow family. Each imports its own file when it is called, so this one imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from tuner.hookspecs import PROJECT

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

hookimpl = pluggy.HookimplMarker(PROJECT)


@hookimpl
def describe_family() -> FamilyFacts:
    """Give AuraFlow's data sheet."""
    from tuner_auraflow.facts import auraflow

    return auraflow()


@hookimpl
def quantisation_policy(options: pydantic.BaseModel) -> QuantisationPolicy:
    """Say which formats AuraFlow's parts may be stored in, whatever the options."""
    from tuner_auraflow.policy import auraflow_policy

    return auraflow_policy()


@hookimpl
def load_components(request: ComponentRequest) -> Components:
    """Load the parts asked for."""
    from tuner_auraflow.loading import load_auraflow

    return load_auraflow(request)


@hookimpl
def encode_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with UMT5, whatever their role."""
    from tuner_auraflow.text import encode_auraflow_prompt

    return encode_auraflow_prompt(components, prompts)


@hookimpl
def compute_loss(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity."""
    from tuner_auraflow.velocity import predict_velocity

    return predict_velocity(components, batch)


@hookimpl
def validation_pipeline(components: Components) -> Sampler:
    """Wrap the live denoiser in diffusers' AuraFlowPipeline."""
    from tuner_auraflow.pipeline import create_sampler

    return create_sampler(components)


@hookimpl
def make_twin(folder: Path) -> Path:
    """Write AuraFlow's twin."""
    from tuner_auraflow.twin import write_twin

    return write_twin(folder)
