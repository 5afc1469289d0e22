"""Rounds of pictures with the live model."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from tuner.caching.conditionings import ConditioningCache
from tuner.config.compiling import picture_backend
from tuner.events import ImagesValidated
from tuner.training.compiling import compiled_by
from tuner.training.loop import Learner
from tuner.training.memory_errors import memory_explained, picture_remedies
from tuner.training.session import Session, release_memory
from tuner.types import Conditioning, Role, Sampler
from tuner.validation.pictures import largest_size, make_pictures, picture_prompts, try_picture
from tuner.validation.sampling import evaluating


@dataclass(frozen=True)
class PictureRounds:
    """Makes pictures of a run's prompts. The codec is loaded for each round and released again.

    Attributes:
        session: The run's surroundings.
        learner: The model.
        conditionings: Holds those of all prompts.
    """

    session: Session
    learner: Learner
    conditionings: ConditioningCache

    def check(self) -> None:
        """Build the pipeline once, so that what keeps pictures from being made is known before the first step.

        Raises:
            TunerError: The family refuses to sample.
        """
        if picture_prompts(self.session.config):
            self._open()
            release_memory()

    def rehearse(self) -> None:
        """Sample one picture of the largest size with few steps, and keep nothing of it.

        Raises:
            OutOfMemoryError: It does not fit into memory.
        """
        config, denoiser = self.session.config, self.learner.components.denoiser
        prompts = picture_prompts(config)
        if not prompts or denoiser is None:
            return
        with self._explained(), evaluating(denoiser), self._compiled(denoiser):
            try_picture(self._open(), prompts[0], self._read, config=config, facts=self.session.facts)
        release_memory()

    def make(self, step: int, label: str, folder: Path) -> None:
        """Make a round and tell the extensions.

        Args:
            step: Optimizer steps taken.
            label: Whose weights these are.
            folder: Where the pictures go.

        Raises:
            TunerError: The family refuses to sample, or a picture does not fit into memory.
        """
        prompts, denoiser = picture_prompts(self.session.config), self.learner.components.denoiser
        if not prompts or denoiser is None:
            return
        sampler = self._open()
        with self._explained(), evaluating(denoiser), self._compiled(denoiser):
            files = make_pictures(
                sampler,
                prompts,
                self._read,
                config=self.session.config,
                facts=self.session.facts,
                seed=self.session.seed,
                folder=folder,
                prefix=f"step_{step}",
            )
        del sampler
        release_memory()
        texts = {prompt.nickname: prompt.prompt for prompt in prompts}
        self.session.hook.images_validated(event=ImagesValidated(step, label, files, texts))

    def _explained(self) -> AbstractContextManager[None]:
        width, height = largest_size(self.session.config, self.session.facts)
        return memory_explained(
            self.session.device, f"a validation picture of {width}x{height}", picture_remedies(self.session)
        )

    def _compiled(self, denoiser: nn.Module) -> AbstractContextManager[None]:
        config = self.session.config
        return compiled_by(denoiser, picture_backend(config.launch, config.validation))

    def _open(self) -> Sampler:
        loaded = self.session.load("codec", "scheduler")
        components = replace(self.learner.components, codec=loaded.codec, scheduler=loaded.scheduler)
        # Some families keep what sampling needs beside the scheduler, such as a tokenizer.
        components.tokenizers = {**components.tokenizers, **loaded.tokenizers}
        return self.session.hook.validation_pipeline(components=components)

    def _read(self, prompt: str, role: Role) -> Conditioning:
        row = self.conditionings.read(prompt, role)
        return {name: tensor.unsqueeze(0).to(self.session.device) for name, tensor in row.items()}
