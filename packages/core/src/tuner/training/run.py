"""A training run, from a checked configuration to a proven export."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import Tensor

import tuner
from tuner.adapters.initial import check_initial_adapter
from tuner.config.loading import LoadedConfig
from tuner.config.run import RunConfig
from tuner.data.order import steps_per_epoch
from tuner.data.plan import Plan
from tuner.events import CheckpointSaved, RunEnded
from tuner.publishing.access import open_repository
from tuner.training.announcing import reason_of, started_event, telling_of_failure
from tuner.training.attention import check_attention
from tuner.training.batches import BatchSource
from tuner.training.building import build_learner, build_schedule, build_source
from tuner.training.checkpoint import (
    find_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from tuner.training.compiling import check_compiling
from tuner.training.data import PreparedData, prepare_data
from tuner.training.evaluation import LossRounds
from tuner.training.export import export_result
from tuner.training.guard import NonFiniteStepError
from tuner.training.identity import (
    allows_changes,
    check_identity,
    export_metadata,
    is_unchanged,
    run_identity,
    scrubbed_settings,
    write_receipt,
)
from tuner.training.interruption import StopRequest, claimed
from tuner.training.loop import Learner, Loop, has_dropout
from tuner.training.memory_errors import memory_explained, step_remedies
from tuner.training.offloading import check_offload
from tuner.training.persistence import HeldState, hold_state, load_learner, save_learner
from tuner.training.picture_rounds import PictureRounds
from tuner.training.processes import Processes, join_processes
from tuner.training.rehearsal import SHORTEST, Rehearsal, batch_size_of, largest_bucket
from tuner.training.replay_record import recorded
from tuner.training.scoring import check_scoring
from tuner.training.session import Session, open_session, quick_collections

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: Optimizer steps taken in all, resumed ones included.
        interrupted: Whether somebody asked it to stop.
        exported: The result, or None if interrupted.
    """

    step: int
    interrupted: bool
    exported: Path | None


def train(loaded: LoadedConfig) -> TrainResult:
    """Train as configured, resuming where a checkpoint says so.

    Raises:
        TunerError: Anything that a user can mend; checkpoints that exist are unharmed.
    """
    output_dir = loaded.config.model.output_dir
    processes = join_processes()
    processes.expect(loaded.config.launch.num_processes)
    with quick_collections(), StopRequest() as stop, claimed(output_dir, processes):
        with telling_of_failure(loaded, processes):
            processes.on_main(lambda: open_repository(loaded.config))
            run = prepare_run(loaded, stop, processes)
            processes.on_main(lambda: write_receipt(loaded, output_dir))
        return run.train()


def prepare_run(loaded: LoadedConfig, stop: StopRequest, processes: Processes | None = None) -> Run:
    """Do all that comes before the first step: data, caches, weights, and what a checkpoint holds.

    Raises:
        TunerError: Anything that a user can mend.
    """
    checkpoint = find_checkpoint(loaded.config.model.output_dir, loaded.config.checkpoints)
    return prepare_run_from(checkpoint, loaded, stop, processes=processes)


def prepare_run_from(
    checkpoint: Path | None,
    loaded: LoadedConfig,
    stop: StopRequest,
    seed: int | None = None,
    processes: Processes | None = None,
) -> Run:
    """Do the same, beginning at a checkpoint that is already chosen, or at step 0 where it is None.

    Args:
        checkpoint: Its folder.
        loaded: The configuration.
        stop: Whether somebody asks the run to stop.
        seed: The seed of a run that begins at step 0, instead of the configured one.
        processes: Those that train together; this one alone if not given.

    Raises:
        TunerError: Anything that a user can mend.
    """
    config = loaded.config
    state = read_checkpoint(checkpoint) if checkpoint else None
    if checkpoint is None and config.model.model_type == "lora":
        check_initial_adapter(config.adapter, config.lycoris)
    check_scoring(config)
    session = open_session(loaded, processes)
    check_attention(loaded, session.device)
    check_offload(config, session.device)
    check_compiling(config, session.device)
    if state is not None:
        seed = state["seed"]
    if seed is not None:
        session = replace(session, seed=seed)
    first = state["step"] if state else 0
    data = session.processes.in_turn(lambda: prepare_data(session, first))
    last = total_steps(config, data.plan)
    identity = run_identity(session, data.plan, build_schedule(config, last))
    session.processes.check_same([first, identity], "run")
    if state is not None:
        check_identity(state["identity"], identity, allows_changes(config))
    learner = build_learner(session, fresh=checkpoint is None)
    logger.info("training %s", learner.trainable.description())
    if checkpoint is not None:
        load_learner(learner, checkpoint)
        logger.info("resumed from %s", checkpoint)
    elif not config.checkpoints.wants_fresh_start():
        logger.info("no checkpoint in %s: starting from step 0", config.model.output_dir)
    source = build_source(session, learner, data)
    proven = state is not None and is_unchanged(state, session, identity)
    return Run(session, stop, data, learner, source, identity, first, last, proven)


def total_steps(config: RunConfig, plan: Plan) -> int:
    """Return the optimizer steps of a whole run."""
    optimisation = config.optimisation
    return optimisation.max_train_steps or optimisation.num_train_epochs * steps_per_epoch(plan)


@dataclass(frozen=True)
class Run:
    """A run that is ready for its next step.

    Attributes:
        session: Its surroundings.
        stop: Whether somebody asks it to stop.
        data: Plan and caches.
        learner: What changes while it trains.
        source: Makes the micro-batches.
        identity: What must be the same when it is resumed.
        first: Steps taken before.
        last: Steps taken when it is done.
        proven: Whether a run of the same settings and data has written the checkpoint that this one goes on from.
    """

    session: Session
    stop: StopRequest
    data: PreparedData
    learner: Learner
    source: BatchSource
    identity: dict[str, str]
    first: int
    last: int
    proven: bool = False

    @property
    def _config(self) -> RunConfig:
        return self.session.config

    @property
    def _output_dir(self) -> Path:
        return self._config.model.output_dir

    @cached_property
    def _pictures(self) -> PictureRounds:
        return PictureRounds(self.session, self.learner, self.data.conditionings)

    @property
    def _evaluation(self) -> LossRounds:
        return LossRounds(self.session, self.learner, self.data, self.source)

    def train(self) -> TrainResult:
        """Take the steps that are left, and export.

        Raises:
            TunerError: A loss is not finite, something cannot be written, or the export does not load.
        """
        hook, processes = self.session.hook, self.session.processes
        if processes.is_main:
            origin = self._metadata(self.first)
            hook.run_started(event=started_event(self.session, self.data.plan, self.first, self.last, origin))
        step, exported, reason = self.first, None, ""
        outcome: Literal["done", "interrupted", "failed"] = "failed"
        try:
            with memory_explained(self.session.device, "training", self._remedies()):
                step = self._take_steps()
            if step < self.last:
                outcome = "interrupted"
            else:
                exported = self._export(step)
                outcome = "done"
        except NonFiniteStepError as error:
            reason = reason_of(error, self.session.loaded.secrets)
            raise recorded(error, self.session, self.source, self.identity) from error
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except Exception as error:
            reason = reason_of(error, self.session.loaded.secrets)
            raise
        finally:
            self.data.latents.close()
            if processes.is_main:
                hook.run_ended(event=RunEnded(step, outcome, exported, reason))
        return TrainResult(step, outcome == "interrupted", exported)

    def _remedies(self) -> list[str]:
        bucket = largest_bucket(self.data.plan)
        return step_remedies(self.session, bucket.dataset, batch_size_of(bucket))

    def _take_steps(self) -> int:
        processes = self.session.processes
        self._pictures.check()
        begins = self.first == 0 and not self._config.validation.disable_benchmark
        if not self.proven and self.last - self.first >= SHORTEST:
            self._rehearsal().run(with_picture=not begins)
        if begins:
            self._pictures.make_base()
        self._evaluation.begin(resumed=self.first > 0)
        loop = self.loop(self.session.accelerator.backward)
        step = self.first
        for step in loop.run(self.first, self.last):
            # Asked once: a request that comes while this step is being dealt with waits for the next one.
            stops = processes.any(self.stop.requested or processes.is_orphaned)
            self._after_step(step, loop, stops)
            if stops:
                break
        return step

    def _rehearsal(self) -> Rehearsal:
        def save(held: HeldState, folder: Path) -> None:
            save_learner(self.learner, held, folder, self._metadata(self.first))

        return Rehearsal(self.session, self.learner, self.source, self._pictures, save, self.first)

    def loop(self, backward: Callable[[Tensor], None]) -> Loop:
        """Return what takes the steps; `backward` runs the backward pass of a loss."""
        denoiser = self.learner.components.denoiser
        assert denoiser is not None
        return Loop(
            self._config,
            self.session.hook,
            self.learner,
            self.source,
            build_schedule(self._config, self.last),
            device=self.session.device,
            dtype=self.session.dtype,
            backward=backward,
            draws=self._config.optimisation.optimizer_spec.draws or has_dropout(denoiser),
            processes=self.session.processes,
        )

    def _after_step(self, step: int, loop: Loop, stops: bool) -> None:
        """Save before making pictures: should these fail, nothing is lost."""
        processes = self.session.processes
        ends = step == self.last or stops
        if ends or _is_due(step, self._config.checkpoints.checkpoint_step_interval):
            loop.check()
            held = hold_state(self.learner, keep=processes.is_main)
            processes.on_main(lambda: self._save_checkpoint(step, held))
            del held  # what was put together for it would take as much memory as the checkpoint
        if not stops and self._evaluation.is_due(step, self.last):
            loop.guard.check()
            self._evaluation.make(step)
        interval = self._config.validation.validation_step_interval
        if not stops and (_is_due(step, interval) or (interval and step == self.last)):
            loop.guard.check()
            self._pictures.make(step)

    def _save_checkpoint(self, step: int, held: HeldState) -> None:
        state = {
            "seed": self.session.seed,
            "identity": self.identity,
            "settings": scrubbed_settings(self._config, self.session.loaded.secrets),
            "version": tuner.__version__,
        }
        metadata = self._metadata(step)
        folder = write_checkpoint(
            self._output_dir, step, state, lambda scratch: save_learner(self.learner, held, scratch, metadata)
        )
        prune_checkpoints(self._output_dir, self._config.checkpoints.checkpoints_total_limit)
        self.session.hook.checkpoint_saved(event=CheckpointSaved(step, folder))

    def _export(self, step: int) -> Path | None:
        return export_result(self.session, self.learner, self.source.step(0)[0], self._metadata(step))

    def _metadata(self, step: int) -> dict[str, str]:
        return export_metadata(self.session, step, self.identity["data"])


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
