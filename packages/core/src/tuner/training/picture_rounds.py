"""Rounds of pictures: of the base model, and of what is trained, as it is and as its moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from torch import nn

from tuner.caching.conditionings import ConditioningCache
from tuner.config.compiling import picture_backend
from tuner.events import ImagesValidated
from tuner.training.codec_memory import tile_side
from tuner.training.compiling import compiled_by
from tuner.training.loop import Learner
from tuner.training.memory_errors import memory_explained, picture_remedies
from tuner.training.scoring import score_pictures
from tuner.training.session import Session, release_memory
from tuner.types import Conditioning, Role, Sampler
from tuner.validation.picture_files import comparable, write_side_by_side
from tuner.validation.pictures import PicturePrompt, largest_size, make_pictures, picture_prompts, try_picture
from tuner.validation.previews import Previews, open_previews
from tuner.validation.rescaling import rescaled_guidance
from tuner.validation.sampling import evaluating

T = TypeVar("T")

BASE, LIVE, EMA = "base model", "live", "ema"
"""Labels: whose weights make pictures."""

Files = Mapping[str, tuple[Path, ...]]
"""Prompt's nickname -> its pictures."""


@dataclass(frozen=True)
class PictureRounds:
    """Makes pictures of a run's prompts. The codec is loaded for each round and released again.

    All processes take part, though the main one alone makes pictures: the weights may be shared out.

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
        if self._prompts:
            self.session.processes.on_main(self._check)

    def rehearse(self) -> None:
        """Sample one picture of the largest size with few steps, and keep nothing of it.

        Raises:
            OutOfMemoryError: It does not fit into memory.
        """
        if self._prompts:
            self._rehearse()
            release_memory()

    def make_base(self) -> None:
        """Make the base model's pictures and tell the extensions.

        Raises:
            TunerError: The family refuses to sample, or a picture does not fit into memory.
        """
        if self._prompts:
            files = self._make_all(0, {BASE: self._base_folder})
            self.session.processes.on_main(lambda: self._tell(0, BASE, files[BASE], files[BASE]))

    def make(self, step: int) -> None:
        """Make a round of what is trained and tell the extensions, once for each kind of weights.

        Where pictures have something to be compared with, each is kept below a folder with the name of its weights,
        and its place is taken by a sheet: base model, trained weights, moving average, from left to right.

        Args:
            step: Optimizer steps taken.

        Raises:
            TunerError: The family refuses to sample, or a picture does not fit into memory.
        """
        if not self._prompts:
            return
        folder, labels = self._output_dir / "validation_images", self._labels
        compares = len(labels) > 1 or not self.session.config.validation.disable_benchmark
        made = self._make_all(step, {label: folder / label if compares else folder for label in labels})

        def show() -> None:
            shown = self._compare(step, made, folder) if compares else made[labels[0]]
            for label in labels:
                self._tell(step, label, made[label], shown if label == labels[0] else {})

        self.session.processes.on_main(show)

    @property
    def _prompts(self) -> list[PicturePrompt]:
        return picture_prompts(self.session.config) if self.learner.components.denoiser is not None else []

    @property
    def _labels(self) -> tuple[str, ...]:
        """Whose pictures a round holds."""
        if self.learner.average is None:
            return (LIVE,)
        return {"none": (LIVE,), "ema_only": (EMA,), "comparison": (LIVE, EMA)}[self.session.config.ema.ema_validation]

    @property
    def _output_dir(self) -> Path:
        return self.session.config.model.output_dir

    @property
    def _base_folder(self) -> Path:
        return self._output_dir / "benchmarks" / "base_model"

    def _check(self) -> None:
        self._open()
        release_memory()
        _ = self._previews  # loaded here, so that what is wrong with it is told before the first step

    @contextmanager
    def _sampling(self, sampler: Sampler) -> Iterator[None]:
        """Let the live denoiser sample inside the block."""
        denoiser = self.learner.components.denoiser
        assert denoiser is not None
        with evaluating(denoiser), self._compiled(denoiser), self._rescaled(sampler, denoiser):
            yield

    def _weights(self, label: str) -> AbstractContextManager[None]:
        """Let the denoiser have the weights that a label names inside the block."""
        if label == EMA and self.learner.average is not None:
            return self.learner.average.swapped()
        # All weights are still the base model's when its pictures are made, but an adapter need not start from nothing.
        if label == BASE and self.learner.trainable.kind != "full":
            return self.learner.trainable.disabled()
        return nullcontext()

    def _acting(self, label: str, sampler: Sampler | None, work: Callable[[], T]) -> T | None:
        """Let the main process, which has the sampler, work with the weights that a label names."""
        with self._explained(sampler), self._weights(label), self.learner.whole():
            return self.session.processes.on_main(work)

    def _rehearse(self) -> None:
        config, facts = self.session.config, self.session.facts

        sampler = self.session.processes.on_main(self._open)

        def rehearse() -> None:
            assert sampler is not None  # the main process has opened it
            with self._sampling(sampler):
                try_picture(sampler, self._prompts[0], self._read, config=config, facts=facts)

        self._acting(self._labels[-1], sampler, rehearse)

    def _make_all(self, step: int, folders: Mapping[str, Path]) -> dict[str, Files]:
        """Make the pictures of the weights that each label names, in that label's folder; elsewhere none come out."""
        sampler = self.session.processes.on_main(self._open)
        made = {}
        for label, folder in folders.items():
            made[label] = self._acting(label, sampler, partial(self._make, sampler, step, label, folder)) or {}
        del sampler
        release_memory()
        return made

    def _make(self, sampler: Sampler | None, step: int, label: str, folder: Path) -> Files:
        assert sampler is not None  # the main process has opened it
        with self._sampling(sampler):
            return make_pictures(
                sampler,
                self._prompts,
                self._read,
                config=self.session.config,
                facts=self.session.facts,
                seed=self.session.seed,
                folder=folder,
                prefix=f"step_{step}",
                at_strength=None if label == BASE else self.learner.trainable.at_strength,
                step=step,
                previews=self._previews,
            )

    def _compare(self, step: int, made: Mapping[str, Files], folder: Path) -> Files:
        """Write a sheet for each picture that came out."""
        captions = {LIVE: f"step {step}", EMA: f"step {step}, average"}
        sheets: dict[str, tuple[Path, ...]] = {}
        for prompt in self._prompts:
            columns: dict[str, list[tuple[str, Path]]] = {}
            for label, files in made.items():
                for file in files[prompt.nickname]:
                    columns.setdefault(file.name, []).append((captions[label], file))
            for name, column in columns.items():
                base = self._base_folder / f"step_0_{name.removeprefix(f'step_{step}_')}"
                if not self.session.config.validation.disable_benchmark and comparable(base, column[0][1]):
                    column.insert(0, (BASE, base))
            sheets[prompt.nickname] = tuple(
                write_side_by_side(column, folder / name) for name, column in columns.items()
            )
        return sheets

    def _tell(self, step: int, label: str, files: Files, shown: Files) -> None:
        texts = {prompt.nickname: prompt.prompt for prompt in self._prompts}
        self.session.hook.images_validated(event=ImagesValidated(step, label, files, texts, shown))
        score_pictures(self.session, step, label, files, texts)

    @cached_property
    def _previews(self) -> Previews | None:
        session = self.session
        return open_previews(session.config, session.facts, session.hook, session.device, session.dtype)

    def _explained(self, sampler: Sampler | None) -> AbstractContextManager[None]:
        width, height = size = largest_size(self.session.config, self.session.facts)
        remedies = picture_remedies(
            self.session, size, tile_side(getattr(sampler.pipeline, "vae", None) if sampler else None)
        )
        return memory_explained(self.session.device, f"a validation picture of {width}x{height}", remedies)

    def _rescaled(self, sampler: Sampler, denoiser: nn.Module) -> AbstractContextManager[None]:
        validation = self.session.config.validation
        return rescaled_guidance(
            denoiser,
            sampler.guidance,
            scale=validation.validation_guidance,
            share=validation.validation_guidance_rescale,
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
