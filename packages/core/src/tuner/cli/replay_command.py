"""The command `tuner replay`: repeating a step that gave NaN or infinite values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.cli.run_commands import load, show_receipt
from tuner.errors import ConfigError, Problem

if TYPE_CHECKING:
    from tuner.training.replay import Replay

OPTIONS = {
    "replay": {
        "RECORD": "the replay-STEP.json that the run left in its output folder; comes first. The step is taken again, "
        "from the last checkpoint before it, and nothing is written to that folder"
    }
}
"""Command -> its options beside settings -> what they do."""


def replay(arguments: Sequence[str]) -> int:
    """Take a recorded step again and show where its first value that is not finite appears.

    Returns:
        1 if the losses are not those of the record.
    """
    if not arguments or arguments[0].startswith("--") or not Path(arguments[0]).is_file():
        named = f"{arguments[0]} is no file" if arguments else "no record is named"
        raise ConfigError([Problem(named, "command line", remedy="tuner replay OUTPUT_DIR/replay-STEP.json [CONFIG]")])
    from tuner.training.replay import replay as run_replay
    from tuner.training.replay_record import read_record

    record = read_record(Path(arguments[0]))
    loaded = load(arguments[1:])
    show_receipt(loaded)
    result = run_replay(loaded, record)
    print("\n".join(_lines(result)))
    return 0 if result.is_same else 1


def _lines(result: Replay) -> list[str]:
    recorded, repeated = result.recorded, result.repeated
    lines = [f"step {recorded.step}, seed {recorded.seed}, from {result.began or 'step 0'}: loss {repeated.loss}"]
    lines += [f"  {sample.name}: sigma {sample.sigma:.4f}, loss {sample.loss}" for sample in repeated.samples]
    if result.is_same:
        lines.append("these losses are those of the record, bit for bit")
    else:
        lines.append(f"these losses are not those of the record, whose loss is {recorded.loss}:")
        lines += [f"  {sample.name}: sigma {sample.sigma:.4f}, loss {sample.loss}" for sample in recorded.samples]
    lines.append(f"the first value that is not finite: {result.first or 'there is none'}")
    return lines
