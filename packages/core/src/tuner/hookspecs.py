"""The contract: what a model family answers (`FamilySpec`) and what an extension may hear (`ExtensionSpec`).

A run has one pluggy manager with exactly one family and any number of extensions registered, so no hook
needs to say which family is meant. Family hooks are `firstresult`: one answer, never None. An extension may
wrap any of them (`hookimpl(wrapper=True)`). The objects that travel are in `tuner.types` and `tuner.events`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import pydantic

    from tuner.events import (
        CheckpointSaved,
        Evaluated,
        ImagesValidated,
        PreparationFailed,
        Previewed,
        RunEnded,
        RunStarted,
        StepEnded,
    )
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

PROJECT = "tuner"
hookspec = pluggy.HookspecMarker(PROJECT)


class FamilySpec:
    """What a model family answers. Listed in the order in which a run asks."""

    @hookspec(firstresult=True)
    def describe_family(self) -> FamilyFacts:  # type: ignore[empty-body]
        """Give the facts of the family.

        Called on every process, before the configuration is checked and by commands that must answer at
        once: must not import torch, diffusers or transformers, read a file or touch the network.
        """

    @hookspec(firstresult=True)
    def quantisation_policy(self, options: pydantic.BaseModel) -> QuantisationPolicy:  # type: ignore[empty-body]
        """Say, part by part, which number formats are allowed, refused (and why), and which layers stay alone.

        Called once per run while the configuration is checked, before anything is loaded. `options` is an
        instance of the model that `FamilyFacts.options` names.
        """

    @hookspec(firstresult=True)
    def load_components(self, request: ComponentRequest) -> Components:  # type: ignore[empty-body]
        """Load the parts asked for, and only these, from `request.folder`, which is local and complete.

        Called several times per run and process: encoders and codec while caches are filled, the denoiser
        for training, codec and scheduler for pictures. Parts are returned in evaluation mode, without
        gradients, in the dtype and on the device that the request gives for each.
        """

    @hookspec(firstresult=True)
    def encode_prompt(  # type: ignore[empty-body]
        self, components: Components, prompts: Sequence[str], role: Role
    ) -> Conditioning:
        """Encode prompts with the text encoders of `components`.

        Called without gradients while the text cache is filled. Returns tensors whose first dimension is
        `len(prompts)`. The core stores them one prompt at a time and stacks any of them into a batch later,
        so every tensor's remaining shape must be the same for all prompts, except for the length of those that
        `FamilyFacts.conditioning_padding` names. A family that has no text encoder returns what its denoiser
        needs instead, such as token ids.
        """

    @hookspec(firstresult=True)
    def compute_loss(self, components: Components, batch: Batch) -> Prediction:  # type: ignore[empty-body]
        """Predict the velocity `noise - x0` of a prepared batch.

        Called once per micro-batch, with gradients in training and without for references. Nothing may be
        reduced here: the core masks, weights and averages, so that every loss works in every family. No
        global random generator may be read.
        """

    @hookspec(firstresult=True)
    def validation_pipeline(self, components: Components) -> Sampler:  # type: ignore[empty-body]
        """Wrap the live denoiser, codec and scheduler in the family's diffusers pipeline.

        Called before every round of pictures and after an export, with text encoders absent: prompts arrive
        as conditionings. The pipeline must hold `components.denoiser` itself, never a copy.
        """

    @hookspec(firstresult=True)
    def make_twin(self, folder: Path) -> Path:  # type: ignore[empty-body]
        """Write the family's twin to `folder` (absent or empty) and return it.

        The twin is a tiny, randomly initialised checkpoint of the real architecture in diffusers layout,
        tokenizers included, built offline. The same call must give the same bytes, whatever the state of the
        global random generators.
        """


class ExtensionSpec:
    """Events for extensions, on the main process only; what they return is ignored.

    An extension is the object that a factory of the entry-point group `tuner.extensions` returned for the
    run's configuration. It must not block: work that waits for a network belongs in a thread.
    """

    @hookspec
    def preparation_failed(self, event: PreparationFailed) -> None:
        """The run came to nothing before its first step. Called on an object that hears of nothing else."""

    @hookspec
    def run_started(self, event: RunStarted) -> None:
        """Weights are loaded and the first step is about to be taken."""

    @hookspec
    def step_ended(self, event: StepEnded) -> None:
        """An optimizer step was taken. Its loss is still on the device: reading it makes the device wait."""

    @hookspec
    def images_validated(self, event: ImagesValidated) -> None:
        """A round of validation pictures was written."""

    @hookspec
    def evaluated(self, event: Evaluated) -> None:
        """The model was evaluated."""

    @hookspec
    def previewed(self, event: Previewed) -> None:
        """A validation picture that is still being sampled was estimated."""

    @hookspec
    def checkpoint_saved(self, event: CheckpointSaved) -> None:
        """A checkpoint is complete on disk."""

    @hookspec
    def run_ended(self, event: RunEnded) -> None:
        """The run is over: done, interrupted or failed. Called exactly once if `run_started` was."""
