"""The loss on data that is not trained on, at fixed noise levels and with fixed noise.

The loss of a picture at a noise level is the mean over its elements of (velocity - (noise - x0))^2, without weights and
masks. Level i of N has sigma = s * u / (1 + (s - 1) * u) with u = (i + 1/2) / N, where s is the shift that training has
for latents of its size. Its noise is a function of seed, picture and level alone, so equal weights give equal numbers.
A data set's loss is the mean over its pictures and levels.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from tuner.caching.conditionings import collate
from tuner.data.order import batches_per_epoch
from tuner.data.sample import Sample
from tuner.events import Evaluated
from tuner.flow import SigmaSchedule, shift_sigma, velocity_loss
from tuner.randomness import normal_tensor, seeded_torch
from tuner.tracking.journal import read_evaluations
from tuner.training.batches import BatchSource, DrawnBatch
from tuner.training.data import PreparedData
from tuner.training.loop import Learner
from tuner.training.memory_errors import memory_explained
from tuner.training.session import Session, release_memory
from tuner.training.step import Learning
from tuner.validation.sampling import evaluating

logger = logging.getLogger(__name__)

BASE_LABEL = "base model"
POOLED = "pooled"

Curve = tuple[tuple[float, float], ...]
"""(sigma, loss) at each level."""


def sigma_grid(levels: int, schedule: SigmaSchedule, tokens: int) -> list[float]:
    """Return the noise levels of a latent of so many tokens, rising."""
    shift = schedule.shift_for(tokens)
    return [shift_sigma((level + 0.5) / levels, shift) for level in range(levels)]


@dataclass(frozen=True)
class LossRounds:
    """Takes the loss on evaluation data; changes no weight and no random draw of the training.

    All processes take part, though the main one alone evaluates: the weights may be shared out.

    Attributes:
        session: The run's surroundings.
        learner: The model.
        data: Holds what is evaluated with.
        source: Knows how sigma is shifted and rows are stacked.
    """

    session: Session
    learner: Learner
    data: PreparedData
    source: BatchSource

    def is_due(self, step: int, last: int) -> bool:
        """Whether to evaluate after `step` steps: at the intervals, and after the last step."""
        if self.data.evaluation is None:
            return False
        settings = self.session.config.evaluation
        every, epochs = settings.eval_steps_interval, settings.eval_epoch_interval
        if step == last or (every and step % every == 0):
            return True
        return bool(epochs and self._passed(step, epochs) > self._passed(step - 1, epochs))

    def begin(self, resumed: bool) -> None:
        """Evaluate the base model, unless this run did so before it was interrupted."""
        settings, datasets = self.session.config.evaluation, self.session.config.eval_datasets
        if settings.has_interval and not datasets:
            logger.info("no data set has dataset_type eval, so no evaluation loss is taken")
        if self.data.evaluation is None:
            return
        processes = self.session.processes
        if resumed and processes.any(processes.is_main and self._has_baseline()):
            return
        with self._base_model(resumed):
            self._evaluate(0, BASE_LABEL)

    def make(self, step: int) -> None:
        """Evaluate the live weights and, where there is one, their moving average."""
        self._evaluate(step, "live")
        if self.learner.average is not None:
            with self.learner.average.swapped():
                self._evaluate(step, "ema")

    def basis(self) -> str:
        """Return a hash of all that the loss depends on beside the weights."""
        levels, schedule = self.session.config.evaluation.eval_timesteps, self.source.schedule
        parts = [self.session.facts.name, str(self.session.seed), str(levels)]
        parts += [repr((schedule.shift, schedule.auto_shift))]
        for sample in self._samples():
            conditioning = self.data.conditionings.key_of(sample.captions[0], "caption")
            parts += [sample.key, self.data.latents.key_of(sample), conditioning]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def _passed(self, step: int, epochs: float) -> int:
        """Return how many intervals of so many epochs are over after `step` steps."""
        plan = self.data.plan
        return int(Fraction(step * plan.accumulation, batches_per_epoch(plan)) / Fraction(str(epochs)))

    def _samples(self) -> list[Sample]:
        plan = self.data.evaluation
        return [sample for bucket in plan.buckets for sample in bucket.samples] if plan else []

    def _has_baseline(self) -> bool:
        basis = self.basis()
        written = read_evaluations(self.session.config.model.output_dir)
        return any(event.label == BASE_LABEL and event.basis == basis for event in written)

    @contextmanager
    def _base_model(self, resumed: bool) -> Iterator[None]:
        trainable = self.learner.trainable
        inside: AbstractContextManager[None] = nullcontext()
        if trainable.kind != "full":
            inside = trainable.disabled()
        elif resumed:
            loaded = self.session.load("denoiser", device=torch.device("cpu")).denoiser
            assert loaded is not None  # asked for, so the contract promises it
            inside = trainable.holding(dict(loaded.named_parameters()))
        with inside:
            yield

    def _evaluate(self, step: int, label: str) -> None:
        def evaluate() -> None:
            metrics, curves = self._measure()
            release_memory()
            logger.info("evaluation of step %d (%s): %s", step, label, _shown(metrics))
            self.session.hook.evaluated(event=Evaluated(step, label, metrics, curves, self.basis()))

        with self.learner.whole():
            self.session.processes.on_main(evaluate)

    def _measure(self) -> tuple[dict[str, float], dict[str, Curve]]:
        denoiser = self.learner.components.denoiser
        assert denoiser is not None
        by_dataset: dict[str, list[tuple[list[float], Tensor]]] = {}
        with evaluating(denoiser), seeded_torch(self.session.seed, "evaluation"):
            for sample in self._samples():
                by_dataset.setdefault(sample.dataset, []).append(self._levels(sample))
        self.data.latents.rest()
        metrics: dict[str, float] = {}
        curves: dict[str, Curve] = {}
        for dataset, rows in by_dataset.items():
            sigmas = torch.tensor([row[0] for row in rows], dtype=torch.float64).mean(dim=0)
            losses = torch.stack([row[1] for row in rows]).cpu().double()
            if not losses.isfinite().all():
                logger.warning("evaluation data set %s: the loss holds NaN or infinite values; it is left out", dataset)
                continue
            metrics[f"eval_loss/{dataset}"] = losses.mean().item()
            curves[f"eval_loss_by_sigma/{dataset}"] = tuple(
                zip(sigmas.tolist(), losses.mean(dim=0).tolist(), strict=True)
            )
        if self.session.config.evaluation.eval_dataset_pooling and len(metrics) == len(by_dataset):
            every = [metrics[f"eval_loss/{name}"] for name, rows in by_dataset.items() for _ in rows]
            metrics[f"eval_loss/{POOLED}"] = math.fsum(every) / len(every)
        return metrics, curves

    def _levels(self, sample: Sample) -> tuple[list[float], Tensor]:
        """Return the noise levels of a picture and its losses there, which are still on the device."""
        batch = self._batch(sample)
        height, width = batch.latents.shape[-2:]
        tokens = (height // self.source.patch_size) * (width // self.source.patch_size)
        sigmas = sigma_grid(self.session.config.evaluation.eval_timesteps, self.source.schedule, tokens)
        learning = Learning(
            self.session.hook, self.learner.components, self.learner.trainable, self.session.device, self.session.dtype
        )
        losses = []
        with memory_explained(self.session.device, f"evaluation with {sample.key}", self._remedies(sample)):
            for level, sigma in enumerate(sigmas):
                noise = normal_tensor(batch.latents.shape[1:], self.session.seed, "evaluation", level, sample.key)
                drawn = replace(batch, noise=noise.unsqueeze(0), sigma=torch.tensor([sigma], dtype=torch.float32))
                noised = drawn.noised(learning.device, learning.dtype)
                losses.append(velocity_loss(learning.predict(noised).velocity, noised.target)[0])
        return sigmas, torch.stack(losses)

    def _batch(self, sample: Sample) -> DrawnBatch:
        latent = self.data.latents.read(sample).float().unsqueeze(0)
        row = self.data.conditionings.read(sample.captions[0], "caption")
        conditioning = collate([row], self.source.conditioning_padding)
        return DrawnBatch((sample.key,), latent, torch.empty(0), torch.empty(0), conditioning)

    def _remedies(self, sample: Sample) -> list[str]:
        return [f"lower the resolution of data set {sample.dataset}", "set eval_loss_disable to true"]


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.5f}" for name, value in metrics.items())
