"""The hooks of the Cosmos2 family. Each imports its own file when it is called, so this one imports no torch."""

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
    """Give Cosmos2's data sheet."""
    from tuner_cosmos2.facts import cosmos2

    return cosmos2()


@hookimpl
def quantisation_policy(options: pydantic.BaseModel) -> QuantisationPolicy:
    """Say which formats Cosmos2's parts may be stored in, whatever the options."""
    from tuner_cosmos2.policy import cosmos2_policy

    return cosmos2_policy()


@hookimpl
def load_components(request: ComponentRequest) -> Components:
    """Load the parts asked for."""
    from tuner_cosmos2.loading import load_cosmos2

    return load_cosmos2(request)


@hookimpl
def encode_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with T5."""
    from tuner_cosmos2.text import encode_cosmos2_prompt

    return encode_cosmos2_prompt(components, prompts)


@hookimpl
def compute_loss(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity."""
    from tuner_cosmos2.velocity import predict_velocity

    return predict_velocity(components, batch)


@hookimpl
def validation_pipeline(components: Components) -> Sampler:
    """Wrap the live denoiser in diffusers' Cosmos2TextToImagePipeline."""
    from tuner_cosmos2.pipeline import create_sampler

    return create_sampler(components)


@hookimpl
def make_twin(folder: Path) -> Path:
    """Write Cosmos2's twin."""
    from tuner_cosmos2.twin import write_twin

    return write_twin(folder)
