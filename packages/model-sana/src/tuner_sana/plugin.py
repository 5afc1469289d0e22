"""The hooks of the Sana family. Each imports its own file when it is called, so this one imports no torch."""

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
    """Give Sana's data sheet."""
    from tuner_sana.facts import sana

    return sana()


@hookimpl
def quantisation_policy(options: pydantic.BaseModel) -> QuantisationPolicy:
    """Say which formats Sana's parts may be stored in, whatever the options."""
    from tuner_sana.policy import sana_policy

    return sana_policy()


@hookimpl
def load_components(request: ComponentRequest) -> Components:
    """Load the parts asked for."""
    from tuner_sana.loading import load_sana

    return load_sana(request)


@hookimpl
def encode_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with Gemma 2."""
    from tuner_sana.text import encode_sana_prompt

    return encode_sana_prompt(components, prompts, role)


@hookimpl
def compute_loss(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity."""
    from tuner_sana.velocity import predict_velocity

    return predict_velocity(components, batch)


@hookimpl
def validation_pipeline(components: Components) -> Sampler:
    """Wrap the live denoiser in diffusers' SanaPipeline."""
    from tuner_sana.pipeline import create_sampler

    return create_sampler(components)


@hookimpl
def make_twin(folder: Path) -> Path:
    """Write Sana's twin."""
    from tuner_sana.twin import write_twin

    return write_twin(folder)
