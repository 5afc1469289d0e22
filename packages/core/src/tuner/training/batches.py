"""From the plan and the caches to noised batches. Every draw is a function of seed, purpose, step and sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tuner.caching.conditionings import collate
from tuner.data.order import Draw, batches_per_epoch, micro_batch
from tuner.data.plan import Plan
from tuner.data.sample import Sample
from tuner.flow import SigmaSchedule, mix, velocity_target
from tuner.randomness import generator, normal_tensor
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
    """

    keys: tuple[str, ...]
    latents: Tensor
    noise: Tensor
    sigma: Tensor
    conditioning: Conditioning

    def noised(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Mix x and the target on `device`; x is in `dtype`, the target stays float32."""
        latents = self.latents.to(device, non_blocking=True)
        noise = self.noise.to(device, non_blocking=True)
        sigma = self.sigma.to(device, non_blocking=True)
        conditioning = {name: rows.to(device, non_blocking=True) for name, rows in self.conditioning.items()}
        return Batch(mix(latents, noise, sigma).to(dtype), sigma, velocity_target(latents, noise), conditioning)


@dataclass(frozen=True)
class BatchSource:
    """Makes the micro-batches of a run, any of them at any time.

    Attributes:
        plan: Which samples make up which micro-batch.
        seed: The run's seed.
        accumulation: Micro-batches per optimizer step.
        schedule: How sigma is drawn.
        patch_size: Latent cells per token, along each side.
        caption_dropout: Chance of the empty caption.
        read_latent: Sample -> its latent, without batch dimension.
        read_conditioning: (prompt, role) -> its conditioning, one row without batch dimension.
        conditioning_padding: Fills the end of shorter conditionings, see `FamilyFacts`.
        pin: Whether to pin the host memory for faster copies to an accelerator.
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
    pin: bool = False

    def step(self, step: int) -> list[DrawnBatch]:
        """Make the micro-batches of optimizer step `step`, counted from 0."""
        indices = range(step * self.accumulation, (step + 1) * self.accumulation)
        return [self._draw(step, index, micro_batch(self.plan, self.seed, index)) for index in indices]

    def steps(self, first: int, last: int) -> Iterator[list[DrawnBatch]]:
        """Make steps `first` to `last - 1`, each one in a thread while its predecessor is trained on."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            upcoming: Future[list[DrawnBatch]] = pool.submit(self.step, first)
            for step in range(first + 1, last):
                ready = upcoming.result()
                upcoming = pool.submit(self.step, step)
                yield ready
            yield upcoming.result()

    def _draw(self, step: int, index: int, draws: Sequence[Draw]) -> DrawnBatch:
        # The same picture can come twice in one step, where the step spans an epoch's end.
        epoch = index // batches_per_epoch(self.plan)
        keys = [f"{epoch}/{draw.key}" for draw in draws]
        latents = torch.stack([self.read_latent(draw.sample).float() for draw in draws])
        height, width = latents.shape[-2:]
        tokens = (height // self.patch_size) * (width // self.patch_size)
        sigmas = [self.schedule.draw(generator(self.seed, "sigma", step, key), tokens) for key in keys]
        noise = torch.stack([normal_tensor(latents.shape[1:], self.seed, "noise", step, key) for key in keys])
        rows = [self._conditioning(draw, step, key) for draw, key in zip(draws, keys, strict=True)]
        drawn = DrawnBatch(
            keys=tuple(draw.key for draw in draws),
            latents=latents,
            noise=noise,
            sigma=torch.tensor(sigmas, dtype=torch.float32),
            conditioning=collate(rows, self.conditioning_padding),
        )
        return _pinned(drawn) if self.pin else drawn

    def _conditioning(self, draw: Draw, step: int, key: str) -> Conditioning:
        if generator(self.seed, "caption_dropout", step, key).random() < self.caption_dropout:
            return self.read_conditioning("", "unconditional")
        captions = draw.sample.captions
        chosen = int(generator(self.seed, "caption", step, key).integers(len(captions)))
        return self.read_conditioning(captions[chosen], "caption")


def _pinned(batch: DrawnBatch) -> DrawnBatch:
    conditioning = {name: rows.pin_memory() for name, rows in batch.conditioning.items()}
    return DrawnBatch(
        batch.keys, batch.latents.pin_memory(), batch.noise.pin_memory(), batch.sigma.pin_memory(), conditioning
    )
