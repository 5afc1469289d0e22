"""Taking the step of a replay record again, on its own, to see where its first value that is not finite appears."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.config.loading import LoadedConfig
from tuner.errors import TunerError
from tuner.training.checkpoint import checkpoint_step, list_checkpoints
from tuner.training.guard import TakenStep
from tuner.training.interruption import StopRequest
from tuner.training.replay_record import ReplayRecord, differences, make_record
from tuner.training.run import Run, prepare_run_from
from tuner.training.watching import Watch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replay:
    """What came of repeating a step.

    Attributes:
        recorded: What the run recorded.
        repeated: What came of it now.
        began: The checkpoint that the replay began at, or None for step 0.
        first: Where the first value that is not finite appeared, or None.
    """

    recorded: ReplayRecord
    repeated: ReplayRecord
    began: str | None
    first: str | None

    @property
    def is_same(self) -> bool:
        """Whether samples and losses are the recorded ones, bit for bit."""
        return (self.repeated.loss, self.repeated.samples) == (self.recorded.loss, self.recorded.samples)


def replay(loaded: LoadedConfig, record: ReplayRecord) -> Replay:
    """Take the steps from the last checkpoint before the recorded step up to that step; writes no output.

    Nobody is told of the steps, no picture is made and no checkpoint written. Caches that are not full are filled.

    Raises:
        TunerError: The configuration is that of another run, or cannot be run.
    """
    output_dir = loaded.config.model.output_dir
    before = [path for path in list_checkpoints(output_dir) if checkpoint_step(path) < record.step]
    checkpoint: Path | None = before[-1] if before else None
    run = prepare_run_from(checkpoint, loaded, StopRequest(), seed=record.seed)
    _check_run(record, run)
    watch = Watch(run.learner.trainable)
    taken = list(_take_steps(run, watch, record.step))[-1]
    run.data.latents.close()
    repeated = make_record(taken, record.culprit, run.session, run.identity)
    for difference in differences(record, repeated):
        logger.warning("%s: the replay may differ", difference)
    return Replay(record, repeated, checkpoint.name if checkpoint else None, watch.first)


def _take_steps(run: Run, watch: Watch, last: int) -> Iterator[TakenStep]:
    loop = run.loop(watch.backward(run.session.accelerator.backward))
    with watch.watching():
        for step in range(run.first, last):
            watch.step = step + 1
            taken, _ = loop.take(step, run.source.step(step))
            watch.look_at_weights()
            yield taken


def _check_run(record: ReplayRecord, run: Run) -> None:
    if run.session.seed != record.seed:
        raise TunerError(
            f"the record is of a run with seed {record.seed}, the checkpoints are of one with {run.session.seed}\n"
            "    -> give the configuration of the run that wrote the record"
        )
    for name, value in run.identity.items():
        if record.identity.get(name) != value:
            raise TunerError(
                f"{name} was {record.identity.get(name)!r} when the record was written and is {value!r} now\n"
                "    -> set it back: another run takes another step"
            )
