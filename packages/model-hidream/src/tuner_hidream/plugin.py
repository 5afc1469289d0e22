"""The hooks of the HiDream family. Each imports its own file when it is called, so this one imports no torch."""

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
    """Give HiDream's data sheet."""
    from tuner_hidream.facts import hidream

    return hidream()


@hookimpl
def quantisation_policy(options: pydantic.BaseModel) -> QuantisationPolicy:
    """Say which formats HiDream's parts may be stored in, whatever the options."""
    from tuner_hidream.policy import hidream_policy

    return hidream_policy()


@hookimpl
def load_components(request: ComponentRequest) -> Components:
    """Load the parts asked for."""
    from tuner_hidream.loading import load_hidream

    return load_hidream(request)


@hookimpl
def encode_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts with CLIP-L, CLIP-G, T5 and Llama."""
    from tuner_hidream.text import encode_hidream_prompt

    return encode_hidream_prompt(components, prompts)


@hookimpl
def compute_loss(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity."""
    from tuner_hidream.velocity import predict_velocity

    return predict_velocity(components, batch)


@hookimpl
def validation_pipeline(components: Components) -> Sampler:
    """Wrap the live denoiser in diffusers' HiDreamImagePipeline."""
    from tuner_hidream.pipeline import create_sampler

    return create_sampler(components)


@hookimpl
def make_twin(folder: Path) -> Path:
    """Write HiDream's twin."""
    from tuner_hidream.twin import write_twin

    return write_twin(folder)
