"""The training step with compiled blocks (`dynamo_backend inductor`) against the same step without.

    python benchmarks/compiling.py [--families sana] [--sizes mid] [--seconds 30] [--output FILE]

Both runs take turns in one process. What compiling takes is in the label: the first step, which is in no median.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cases import add_kinds, add_seconds, case_parser, written_projects
from report import Verdict, measure_in_child, run_children, write_report

BAR = 1.0


def main() -> None:
    """Measure every family, size and way of training, and print and write the table."""
    parser = case_parser("Compiled blocks against blocks as they are.", sizes=["mid"])
    add_kinds(parser)
    add_seconds(parser)
    options = parser.parse_args()
    verdicts = []
    for family, size, config in written_projects(options):
        for kind in options.kinds:
            times = measure_in_child(__file__, "times", config, kind, str(options.seconds))
            name = f"{family} {size}, {kind}, compiled in {times['first']:.0f} s"
            verdicts.append(Verdict.of_times(name, times["compiled"], times["plain"], BAR))
    write_report("Training step with compiled blocks (tuner) and without (bare)", verdicts, options.output)


def child_times(config: str, kind: str, seconds: str) -> dict[str, Any]:
    """Time steps with and without compiled blocks in turns; seconds per step, and those of the compiled first one."""
    from stages import WARM_UP, load_case, steps_of, times_in_turns
    from tuner.training.interruption import StopRequest
    from tuner.training.run import prepare_run

    runs = {
        side: prepare_run(load_case(Path(config), kind, 1, {"dynamo_backend": backend}), StopRequest())
        for side, backend in (("compiled", "inductor"), ("plain", "no"))
    }
    sides = {side: partial(next, steps_of(run)) for side, run in runs.items()}
    times = times_in_turns(sides, runs["plain"].session.device, float(seconds))
    return {"first": times["compiled"][0], **{side: values[WARM_UP:] for side, values in times.items()}}


if __name__ == "__main__":
    run_children({"times": child_times}) or main()
