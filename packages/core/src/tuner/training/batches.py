"""From the plan and the caches to noised batches. Every draw is a function of seed, purpose, step and sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tuner.caching.conditionings import collate
from tuner.caching.filling import is_finite
from tuner.config.scheduled_sampling import ScheduledSamplingConfig
from tuner.data.order import Draw, micro_batch, samples_before
from tuner.data.plan import Plan
from tuner.data.sample import Sample
from tuner.errors import NonFiniteError
from tuner.flow import SigmaSchedule, mix, velocity_target
from tuner.randomness import generator, normal_tensor
from tuner.training.rollout import ROLLOUT_STEP, Rollout
from tuner.training.row_memo import RowMemo
from tuner.types import Batch, Conditioning, Role


@dataclass(frozen=True)
class DrawnBatch:
    """A micro-batch with its draws made, on the CPU.

    Attributes:
        keys: Names of the samples, for errors.
        latents: Clean latents x0, float32, batch-first.
        noise: Standard normal, as `latents`.
        sigma: float32, shape (B,).
        conditioning: The drawn captions' conditioning, B rows.
        mask: Of shape (B, 1, H, W) in [0, 1], or None.
        regularisation: Whether the target is the base model's own prediction.
        rollout: How the samples are rolled out, or None where none is.
    """

    keys: tuple[str, ...]
    latents: Tensor
    noise: Tensor
    sigma: Tensor
    conditioning: Conditioning
    mask: Tensor | None = None
    regularisation: bool = False
    rollout: Rollout | None = None

    def noised(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Mix x and the target on `device`; x is in `dtype`, the target stays float32."""
        latents = self.latents.to(device, non_blocking=True)
        noise = self.noise.to(device, non_blocking=True)
        sigma = self.sigma.to(device, non_blocking=True)
        conditioning = {name: rows.to(device, non_blocking=True) for name, rows in self.conditioning.items()}
        return Batch(mix(latents, noise, sigma).to(dtype), sigma, velocity_target(latents, noise), conditioning)

    def pinned(self) -> DrawnBatch:
        """Return the same in page-locked memory, from where copies to an accelerator are faster."""
        return replace(
            self,
            latents=self.latents.pin_memory(),
            noise=self.noise.pin_memory(),
            sigma=self.sigma.pin_memory(),
            conditioning={name: rows.pin_memory() for name, rows in self.conditioning.items()},
            mask=None if self.mask is None else self.mask.pin_memory(),
        )


class StepSize(NamedTuple):
    """How many samples a step has, and how many of them are of regularisation data."""

    samples: int
    regularised: int

    @classmethod
    def of(cls, micro_batches: Sequence[DrawnBatch]) -> StepSize:
        """Count those of micro-batches."""
        return cls(
            sum(len(batch.keys) for batch in micro_batches),
            sum(len(batch.keys) for batch in micro_batches if batch.regularisation),
        )


@dataclass(frozen=True)
class BatchSource:
    """Makes the micro-batches of a run, any of them at any time. For one thread at a time.

    Attributes:
        plan: Which samples make up which micro-batch.
        seed: The run's seed.
        accumulation: Micro-batches per optimizer step, those of all processes together.
        schedule: How sigma is drawn.
        patch_size: Latent cells per token, along each side.
        caption_dropout: Chance of the empty caption.
        read_latent: Sample -> its latent, without batch dimension.
        read_conditioning: (prompt, role) -> its conditioning, one row without batch dimension.
        conditioning_padding: Fills the end of shorter conditionings, see `FamilyFacts`.
        read_mask: Sample that has a mask -> the mask of its latent, without batch dimension.
        in_epoch: (sample, epoch) -> the sample as it is cropped in that epoch, its latent at hand; None where no crop
            changes.
        regularisation: Ids of the data sets whose target is the base model's own prediction.
        scheduled_sampling: When samples are rolled out, and how far.
        rank: Number of this process.
        processes: Processes that share the micro-batches of a step: each takes every so-many-eth.
    """

    plan: Plan
    seed: int
    accumulation: int
    schedule: SigmaSchedule
    patch_size: int
    caption_dropout: float
    read_latent: Callable[[Sample], Tensor]
    read_conditioning: Callable[[str, Role], Conditioning]
    conditioning_padding: Mapping[str, float] = field(default_factory=dict)
    read_mask: Callable[[Sample], Tensor] | None = None
    in_epoch: Callable[[Sample, int], Sample] | None = None
    regularisation: frozenset[str] = frozenset()
    scheduled_sampling: ScheduledSamplingConfig = ScheduledSamplingConfig()  # noqa: RUF009 - it is frozen
    rank: int = 0
    processes: int = 1
    _rows: RowMemo = field(default_factory=RowMemo, init=False, repr=False, compare=False)

    @property
    def positions(self) -> range:
        """Which of a step's micro-batches this process takes."""
        return range(self.rank, self.accumulation, self.processes)

    def step(self, step: int) -> list[DrawnBatch]:
        """Make the micro-batches of optimizer step `step`, counted from 0, that this process takes."""
        return [self._at(step, step * self.accumulation + position) for position in self.positions]

    def size(self, step: int) -> StepSize:
        """Count the samples of optimizer step `step`, counted from 0, over all processes; nothing is read."""
        first = step * self.accumulation
        batches = [micro_batch(self.plan, self.seed, first + position) for position in range(self.accumulation)]
        regularised = [len(draws) for draws in batches if draws[0].sample.dataset in self.regularisation]
        return StepSize(sum(map(len, batches)), sum(regularised))

    def _at(self, step: int, index: int) -> DrawnBatch:
        before = samples_before(self.plan, self.seed, index) if self.schedule.in_turn else 0
        return self.batch(step, micro_batch(self.plan, self.seed, index), before)

    def batch(self, step: int, draws: Sequence[Draw], before: int = 0) -> DrawnBatch:
        """Make one micro-batch of a step, of pictures of one bucket. `before` counts the samples drawn before it."""
        if self.in_epoch is not None:
            draws = [replace(draw, sample=self.in_epoch(draw.sample, draw.epoch)) for draw in draws]
        keys = [draw.name for draw in draws]
        latents = torch.stack([self._latent(draw.sample, step) for draw in draws])
        sigmas = self._sigmas(step, before, keys, latents)
        noise = torch.stack([normal_tensor(latents.shape[1:], self.seed, "noise", step, key) for key in keys])
        rows = [self._conditioning(draw, step, key) for draw, key in zip(draws, keys, strict=True)]
        return DrawnBatch(
            keys=tuple(draw.key for draw in draws),
            latents=latents,
            noise=noise,
            sigma=sigmas,
            conditioning=collate(rows, self.conditioning_padding),
            mask=self._masks(draws),
            regularisation=draws[0].sample.dataset in self.regularisation,
            rollout=self._rollout(step, keys, sigmas),
        )

    def _sigmas(self, step: int, before: int, keys: Sequence[str], latents: Tensor) -> Tensor:
        height, width = latents.shape[-2:]
        tokens = (height // self.patch_size) * (width // self.patch_size)
        sigmas = [
            self.schedule.draw(generator(self.seed, "sigma", step, key), tokens, before + row)
            for row, key in enumerate(keys)
        ]
        return torch.tensor(sigmas, dtype=torch.float32)

    def _latent(self, sample: Sample, step: int) -> Tensor:
        def read() -> Conditioning:
            return self._sound({"latent": self.read_latent(sample).float()}, f"latent of {sample.key}", step)

        return self._rows.get((sample.key, sample.geometry.crop), read)["latent"]

    def _masks(self, draws: Sequence[Draw]) -> Tensor | None:
        """A micro-batch is of one data set, which has a mask for every picture or none at all."""
        if self.read_mask is None or draws[0].sample.mask is None:
            return None
        return torch.stack([self._mask(draw.sample, self.read_mask) for draw in draws])

    def _mask(self, sample: Sample, read: Callable[[Sample], Tensor]) -> Tensor:
        return self._rows.get(("mask", sample.key, sample.geometry.crop), lambda: {"mask": read(sample)})["mask"]

    def _rollout(self, step: int, keys: Sequence[str], sigmas: Tensor) -> Rollout | None:
        chance = self.scheduled_sampling.probability(step)
        if not chance:
            return None
        moves = []
        for key, sigma in zip(keys, sigmas.tolist(), strict=True):
            random = generator(self.seed, "rollout", step, key)
            drawn = self.scheduled_sampling.draw_moves(random)
            # Below one model step of noise, dividing by sigma makes a target of the state's rounding errors.
            moves.append(drawn if random.random() < chance and sigma >= ROLLOUT_STEP else 0)
        if not any(moves):
            return None
        integrator = self.scheduled_sampling.scheduled_sampling_sampler
        return Rollout(torch.tensor(moves), integrator, self.scheduled_sampling.scheduled_sampling_order)

    def _conditioning(self, draw: Draw, step: int, key: str) -> Conditioning:
        dropout = self.caption_dropout
        if dropout and generator(self.seed, "caption_dropout", step, key).random() < dropout:
            return self._encoded("", "unconditional", step)
        captions = draw.sample.captions
        chosen = int(generator(self.seed, "caption", step, key).integers(len(captions))) if len(captions) > 1 else 0
        return self._encoded(captions[chosen], "caption", step)

    def _encoded(self, prompt: str, role: Role, step: int) -> Conditioning:
        def read() -> Conditioning:
            return self._sound(self.read_conditioning(prompt, role), f"conditioning of the {role} {prompt!r}", step)

        return self._rows.get((prompt, role), read)

    def _sound(self, row: Conditioning, subject: str, step: int) -> Conditioning:
        """Nothing that is not finite is cached by this version, but others may have."""
        if all(map(is_finite, row.values())):
            return row
        raise NonFiniteError(
            f"the {subject} holds NaN or infinite values (step {step + 1}, seed {self.seed})\n"
            "    -> delete the cache folder that it lies in; `tuner cache` fills it again"
        )
