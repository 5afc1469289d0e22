"""The rehearsal: what is rare in a run and needs most happens once before its first step, so that it cannot fail late.

It takes one forward and backward pass of the largest batch, unless the first step has one as large, one picture of the
largest size with few sampling steps, and writes one checkpoint, which is removed. Meanwhile as much memory is set aside
as the optimizer's state will take. It changes nothing: no weight, no optimizer state, no random draw.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tuner.data.order import Draw, epoch_at, micro_batch
from tuner.data.plan import Bucket, Plan
from tuner.optim.footprint import state_bytes
from tuner.optim.gradients import gradients_of
from tuner.randomness import seeded_torch
from tuner.sharding import local
from tuner.training.batches import BatchSource
from tuner.training.checkpoint import try_checkpoint
from tuner.training.loop import Learner
from tuner.training.memory_errors import memory_explained, optimizer_remedies, step_remedies
from tuner.training.persistence import HeldState, hold_state
from tuner.training.picture_rounds import PictureRounds
from tuner.training.session import Session, release_memory
from tuner.training.step import Learning, backward_step

logger = logging.getLogger(__name__)

SHORTEST = 20
"""Runs of fewer steps are not rehearsed: for them it is no small price, and nothing in them comes late."""


@dataclass(frozen=True)
class Rehearsal:
    """What the rehearsal needs of a run.

    Attributes:
        session: The run's surroundings.
        learner: What will be trained.
        source: Makes the micro-batches.
        pictures: Makes the pictures.
        save: Writes what a checkpoint holds of the learner into a folder.
        first: Optimizer steps taken before.
    """

    session: Session
    learner: Learner
    source: BatchSource
    pictures: PictureRounds
    save: Callable[[HeldState, Path], None]
    first: int

    def run(self, *, with_picture: bool) -> None:
        """Rehearse.

        Args:
            with_picture: Whether to make a picture; not where the base model's pictures have been made.

        Raises:
            OutOfMemoryError: A part does not fit into memory; says which and what would help.
            CheckpointError: A checkpoint cannot be written.
        """
        started = time.perf_counter()
        done = ["a checkpoint"]
        bucket, processes = largest_bucket(self.source.plan), self.session.processes
        state = self._set_aside()
        # Processes may need each other for a step, so all take it if one has to.
        if processes.any(self._first_step_is_smaller(bucket)):
            self._step(bucket)
            done.append(f"the largest batch ({bucket.id})")
        if with_picture:
            self.pictures.rehearse()
            done.append("a picture")
        with memory_explained(self.session.device, "a checkpoint", ()):
            self._save()
        del state
        release_memory()
        logger.info("rehearsed %s: %.1f s", ", ".join(done), time.perf_counter() - started)

    def _first_step_is_smaller(self, bucket: Bucket) -> bool:
        """Whether no micro-batch that this process takes in the step to come is as large as the largest."""
        plan, seed = self.source.plan, self.source.seed
        first = self.first * plan.accumulation
        batches = (micro_batch(plan, seed, first + position) for position in self.source.positions)
        return max(_pixels(batch[0].sample.geometry.size, len(batch)) for batch in batches) < _pixels_of(bucket)

    def _save(self) -> None:
        output_dir, processes = self.session.config.model.output_dir, self.session.processes
        held = hold_state(self.learner, keep=processes.is_main)
        processes.on_main(lambda: try_checkpoint(output_dir, lambda folder: self.save(held, folder)))

    def _set_aside(self) -> list[Tensor]:
        """Take the memory of the state that the optimizer will have after its first step; none where it has it."""
        session, learner = self.session, self.learner
        if learner.optimizer.state:
            return []
        optimisation = session.config.optimisation
        each = state_bytes(
            optimisation.optimizer, session.dtypes.trained, session.device, optimisation.optimizer_arguments
        )
        with memory_explained(session.device, "the optimizer's state", optimizer_remedies(session)):
            return [
                torch.empty(int(each * local(weight).numel()), dtype=torch.uint8, device=weight.device)
                for _, weight in learner.trainable.named_parameters()
            ]

    def _step(self, bucket: Bucket) -> None:
        session, learner = self.session, self.learner
        learning = Learning(session.hook, learner.components, learner.trainable, session.device, session.dtype)
        width, height = bucket.size
        what = f"a training step of {batch_size_of(bucket)} pictures of {width}x{height}"
        remedies = step_remedies(session, bucket.dataset, batch_size_of(bucket))
        discarded = gradients_of(learner.optimizer, session.config.optimisation).discarded()
        with memory_explained(session.device, what, remedies), seeded_torch(session.seed, "rehearsal"), discarded:
            batch = self.source.batch(self.first, self._draws(bucket))
            backward_step(learning, [batch], session.accelerator.backward)

    def _draws(self, bucket: Bucket) -> list[Draw]:
        """Return a full batch of a bucket, of the pictures with the longest captions."""
        plan = self.source.plan
        epoch = epoch_at(plan, self.source.seed, self.first * plan.accumulation, bucket.dataset)
        samples = sorted(bucket.samples, key=lambda sample: -max(map(len, sample.captions), default=0))
        return [
            Draw(samples[number % len(samples)], number // len(samples), epoch)
            for number in range(batch_size_of(bucket))
        ]


def largest_bucket(plan: Plan) -> Bucket:
    """Return the bucket whose batches hold the most latent tokens, which are proportional to pixels."""
    return max(plan.buckets, key=_pixels_of)


def batch_size_of(bucket: Bucket) -> int:
    """Return the samples in a bucket's largest batch."""
    return min(bucket.batch_size, bucket.draws)


def _pixels_of(bucket: Bucket) -> int:
    return _pixels(bucket.size, batch_size_of(bucket))


def _pixels(size: tuple[int, int], count: int) -> int:
    return size[0] * size[1] * count
