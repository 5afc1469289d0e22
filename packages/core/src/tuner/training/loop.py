"""The training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tuner.adapters.base import Trainable
from tuner.config import RunConfig
from tuner.events import StepEnded
from tuner.optim.ema import MovingAverage
from tuner.optim.gradients import gradients_of
from tuner.optim.optimizers import reported, set_learning_rate
from tuner.optim.scaling import SMALLEST, LossScale
from tuner.optim.schedules import Schedule
from tuner.randomness import seeded_torch
from tuner.sharding import local
from tuner.training.batches import BatchSource, DrawnBatch, StepSize
from tuner.training.feeding import feed
from tuner.training.guard import FiniteGuard, TakenStep
from tuner.training.processes import Processes, others_computing
from tuner.training.reduction import sum_gradients, sum_parts
from tuner.training.sharded import ShardedDenoiser
from tuner.training.sigma_bins import SigmaBins
from tuner.training.step import Learning, backward_step
from tuner.types import Components

logger = logging.getLogger(__name__)


@dataclass
class Learner:
    """What changes while a run trains; together with the step number, the whole state of a run.

    Attributes:
        components: The model, its denoiser live.
        trainable: What of it is trained.
        optimizer: The optimizer.
        average: The moving average, or None.
        sharded: How the denoiser is shared out over processes, or None.
        scale: What losses are multiplied with, or None.
    """

    components: Components
    trainable: Trainable
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None = None
    sharded: ShardedDenoiser | None = None
    scale: LossScale | None = None

    def whole(self) -> AbstractContextManager[None]:
        """Let each process use the denoiser by itself inside the block, which all processes enter and leave."""
        return self.sharded.whole() if self.sharded else nullcontext()


class Loop:
    """Takes optimizer steps.

    Args:
        config: The run's configuration.
        hook: Hooks of the plugin manager.
        learner: What is trained.
        source: Makes the micro-batches.
        schedule: The learning rate of each step.
        device: Where the denoiser is.
        dtype: Compute dtype.
        backward: Runs the backward pass of a loss.
        draws: Whether model or optimizer draw from torch's global generator, which is then seeded for each micro-batch
            and for the optimizer's step.
        processes: Those that train together; steps are the same in all of them, and the main one reports them.
    """

    def __init__(
        self,
        config: RunConfig,
        hook: Any,
        learner: Learner,
        source: BatchSource,
        schedule: Schedule,
        *,
        device: torch.device,
        dtype: torch.dtype,
        backward: Callable[[Tensor], None],
        draws: bool = False,
        processes: Processes = Processes(),  # noqa: B008 - it is frozen
    ) -> None:
        self._config = config
        self._hook = hook
        self._learner = learner
        self._source = source
        self._schedule = schedule
        self._device = device
        self._learning = Learning(hook, learner.components, learner.trainable, device, dtype)
        self._backward = backward
        self._draws = draws
        self._processes = processes
        self._parameters = [parameter for _, parameter in learner.trainable.named_parameters()]
        self._gradients = gradients_of(learner.optimizer, config.optimisation, learner.scale)
        self._bins = SigmaBins()
        self.guard = FiniteGuard(source.seed)

    def run(self, first: int, last: int) -> Iterator[int]:
        """Take steps `first` to `last - 1`, counted from 0; after each, yield how many have been taken in all.

        Raises:
            NonFiniteStepError: A loss or a gradient was NaN or infinite.
        """
        if first >= last:
            return
        steps = feed(self._source, first, last, self._device)
        for step, micro_batches in zip(range(first, last), steps, strict=True):
            taken, metrics = self.take(step, micro_batches)
            self._report(taken, metrics)
            yield step + 1

    def take(self, step: int, micro_batches: list[DrawnBatch]) -> tuple[TakenStep, dict[str, Tensor | float]]:
        """Take step `step`, counted from 0, and return what it leaves and its metrics. Nobody else is told."""
        optimizer, rate, logged = self._learner.optimizer, self._schedule.at(step), self._is_logged(step + 1)
        set_learning_rate(optimizer, rate)
        self._gradients.measure(logged)
        whole = StepSize.of(micro_batches) if self._processes.is_alone else self._source.size(step)
        positions = self._source.positions
        with others_computing():
            losses = backward_step(
                self._learning,
                micro_batches,
                lambda loss: self._backward(self._gradients.scaled(loss)),
                whole,
                seeded=lambda number: self._global_draws("dropout", step, str(positions[number])),
                seen=self._bins.add,
            )
            sum_gradients(self._parameters, self._processes)
            size = self._gradients.clip()
            with self._global_draws("optimizer", step):
                overflowed = self._gradients.step() is False
        optimizer.zero_grad(set_to_none=True)
        if overflowed and self._learner.scale is not None:
            size = self._left_out(step + 1, self._learner.scale.value, size)
        if self._learner.average is not None:
            self._learner.average.update(step + 1)
        taken = TakenStep(
            step=step + 1,
            keys=tuple(key for batch in micro_batches for key in batch.keys),
            sigmas=tuple(batch.sigma for batch in micro_batches),
            losses=tuple(losses.samples),
            loss=self._processes.add_up(losses.total),
            samples=whole.samples,
            learning_rate=rate,
            gradient=next(iter(size.values()), None),
        )
        metrics: dict[str, Tensor | float] = dict(size)
        if logged or self._processes.is_alone:
            # To agree on the names of what they have, processes wait for each other.
            metrics |= sum_parts(losses.parts, self._processes, self._device)
        if logged:
            metrics.update(self._bins.take(self._processes))
            if self._learner.scale is not None:
                metrics["loss_scale"] = self._learner.scale.value
            metrics.update(reported(self._config.optimisation.optimizer, optimizer))
        return taken, metrics

    def check(self) -> None:
        """Make sure that all steps up to here were sound, before anything is saved. The device is waited for.

        Raises:
            NonFiniteStepError: A loss, gradient, weight or value of the optimizer is NaN or infinite.
        """
        self.guard.check()
        state = [value for values in self._learner.optimizer.state.values() for value in values.values()]
        tensors = [value for value in state if isinstance(value, Tensor)]
        held = map(local, [*self._learner.trainable.state().values(), *tensors])
        self.guard.check_saved(held, self._processes)

    def _left_out(self, taken: int, scale: float, size: dict[str, Tensor]) -> dict[str, Tensor]:
        """Say that a step changed nothing, and return the size of its gradient if that is more than a matter of scale.

        The size is infinite or NaN, which ends a run.
        """
        if scale < SMALLEST:
            return size or {"grad_norm": torch.full((), torch.inf, device=self._device)}
        if self._processes.is_main:
            logger.info(
                "step %d is left out: its gradients overflowed float16; losses are now scaled by %g", taken, scale
            )
        return {}

    def _is_logged(self, taken: int) -> bool:
        return taken == 1 or taken % self._config.tracking.log_interval == 0

    def _report(self, taken: TakenStep, metrics: dict[str, Tensor | float]) -> None:
        self.guard.add(taken)
        # Reading a loss on the CPU waits for nothing, so there every step can be judged at once.
        logged = self._is_logged(taken.step)
        if logged or self._device.type == "cpu":
            self.guard.check()
        if self._processes.is_main:
            event = StepEnded(taken.step, taken.loss, taken.learning_rate, taken.samples, metrics, logged)
            self._hook.step_ended(event=event)

    def _global_draws(self, purpose: str, step: int, sample: str = "") -> AbstractContextManager[None]:
        return seeded_torch(self._source.seed, purpose, step, sample) if self._draws else nullcontext()


def has_dropout(module: torch.nn.Module) -> bool:
    """Whether any dropout layer of a module is active in training."""
    return any(isinstance(layer, torch.nn.Dropout) and layer.p > 0 for layer in module.modules())
