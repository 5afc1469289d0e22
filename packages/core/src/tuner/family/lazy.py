"""A plugin whose hooks live in files that are imported when they are first called.

Listing families must not import torch, so a plugin's module must not either. This class holds the seven hooks once;
a family names the function behind each.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class LazyFamily:
    """The hooks of `tuner.hookspecs.FamilySpec`, each given as "file:function" within one package.

    The functions take the hook's arguments by position.

    Attributes:
        package: Import name of the family's package.
        describe: Of `describe_family`; its file must not import torch either.
        policy: Of `quantisation_policy`.
        load: Of `load_components`.
        encode: Of `encode_prompt`.
        predict: Of `compute_loss`.
        sampler: Of `validation_pipeline`.
        twin: Of `make_twin`.
    """

    package: str
    describe: str
    policy: str
    load: str
    encode: str
    predict: str
    sampler: str
    twin: str

    @property
    def __name__(self) -> str:
        """How messages name the plugin."""
        return self.package

    @hookimpl
    def describe_family(self) -> FamilyFacts:
        """Give the family's data sheet."""
        return self._function(self.describe)()

    @hookimpl
    def quantisation_policy(self, options: pydantic.BaseModel) -> QuantisationPolicy:
        """Say which formats the parts may be stored in."""
        return self._function(self.policy)(options)

    @hookimpl
    def load_components(self, request: ComponentRequest) -> Components:
        """Load the parts asked for."""
        return self._function(self.load)(request)

    @hookimpl
    def encode_prompt(self, components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
        """Encode prompts."""
        return self._function(self.encode)(components, prompts, role)

    @hookimpl
    def compute_loss(self, components: Components, batch: Batch) -> Prediction:
        """Predict the velocity."""
        return self._function(self.predict)(components, batch)

    @hookimpl
    def validation_pipeline(self, components: Components) -> Sampler:
        """Wrap the live denoiser in the family's pipeline."""
        return self._function(self.sampler)(components)

    @hookimpl
    def make_twin(self, folder: Path) -> Path:
        """Write the family's twin."""
        return self._function(self.twin)(folder)

    def _function(self, target: str) -> Callable[..., Any]:
        file, _, name = target.partition(":")
        return getattr(importlib.import_module(f"{self.package}.{file}"), name)
