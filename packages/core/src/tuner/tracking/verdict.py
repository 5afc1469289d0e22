"""What the evaluations of a run say, in one paragraph with numbers.

Evaluation losses are taken with the same noise every time, so small differences mean something; still, less than
`SAME` counts as none. A run over-fits where the evaluation loss has risen from its least value by `RISE` or more while
the training loss fell. The latter depends on the noise that was drawn, so it is averaged: over the logged steps since
the least value, 20 at most, against as many up to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tuner.events import Evaluated

SAME = 0.005
"""Differences below half a percent are called none."""
RISE = 0.02
"""A rise of the evaluation loss that is called one."""
WINDOW = 20
"""Most logged steps that a training loss is averaged over."""

Point = tuple[int, float]
"""(step, value)."""


@dataclass(frozen=True)
class Series:
    """A value over a run.

    Attributes:
        base: That of the base model, or None.
        live: Those of the live weights, by rising step.
        average: Those of the moving average.
    """

    base: float | None
    live: tuple[Point, ...]
    average: tuple[Point, ...]


def describe_run(
    evaluations: Sequence[Evaluated], training: Sequence[Point], checkpoints: Iterable[int] = ()
) -> str | None:
    """Say whether a run made its model better, whether it over-fitted, and which checkpoint is best.

    Args:
        evaluations: All evaluations of the run; those that cannot be compared with the last one are left out.
        training: (step, training loss) of the logged steps.
        checkpoints: Steps of the checkpoints that exist.

    Returns:
        Sentences, or None where nothing was evaluated.
    """
    sentences: list[str] = []
    losses = _series(evaluations, "eval_loss/")
    if losses.live:
        sentences += [_against_base(losses), *_average(losses), *_best(losses, sorted(checkpoints))]
        sentences.append(_overfitting(losses.live, training))
    scores = _series(evaluations, "clip_score/mean")
    if scores.live or scores.average:
        sentences.append(_clip(scores))
    return " ".join(sentences) or None


def eval_loss_of(event: Evaluated) -> float | None:
    """Return the one loss of an evaluation: the pooled one, or else the mean over its data sets; None without any."""
    if "eval_loss/pooled" in event.metrics:
        return event.metrics["eval_loss/pooled"]
    values = [value for name, value in event.metrics.items() if name.startswith("eval_loss/")]
    return math.fsum(values) / len(values) if values else None


def _series(evaluations: Sequence[Evaluated], name: str) -> Series:
    found = [event for event in evaluations if any(metric.startswith(name) for metric in event.metrics)]
    comparable = ((event, (event.basis, event.metrics.keys())) for event in found)
    found = [event for event, kind in comparable if kind == (found[-1].basis, found[-1].metrics.keys())]
    values: dict[str, dict[int, float]] = {}
    for event in found:
        value = eval_loss_of(event) if name == "eval_loss/" else event.metrics[name]
        if value is not None:
            values.setdefault(event.label, {})[event.step] = value
    live, average = (tuple(sorted(values.get(label, {}).items())) for label in ("live", "ema"))
    return Series(values.get("base model", {}).get(0), live, average)


def _against_base(losses: Series) -> str:
    step, value = losses.live[-1]
    head = f"Evaluation loss after step {step}: {value:.4f}"
    if losses.base is None:
        return f"{head}; that of the base model is not known."
    change = value / losses.base - 1
    if abs(change) < SAME:
        return f"{head}, the same as the base model's {losses.base:.4f} ({change:+.1%})."
    better = "better" if change < 0 else "worse"
    return f"{head}, {better} than the base model's {losses.base:.4f} by {abs(change):.1%}."


def _average(losses: Series) -> Iterator[str]:
    if losses.average:
        step, value = losses.average[-1]
        yield f"The moving average has {value:.4f} after step {step}."


def _best(losses: Series, checkpoints: Sequence[int]) -> Iterator[str]:
    step, value = min(losses.live, key=lambda point: point[1])
    if losses.base is not None and value >= losses.base:
        yield f"No evaluated step was better than the base model; step {step} comes nearest with {value:.4f}."
    else:
        yield f"The best evaluated step is {step} with {value:.4f}."
    kept = [point for point in losses.live if point[0] in checkpoints]
    if step in checkpoints:
        yield f"Its checkpoint is checkpoint-{step}."
    elif kept:
        other, its_value = min(kept, key=lambda point: point[1])
        yield f"No checkpoint of it was kept; of those that were, checkpoint-{other} is best with {its_value:.4f}."
    else:
        yield "No checkpoint of an evaluated step was kept."


def _overfitting(live: Sequence[Point], training: Sequence[Point]) -> str:
    if len(live) < 3:
        return f"Whether it over-fits cannot be told from {len(live)} evaluation{'s' if len(live) > 1 else ''}."
    best, least = min(live, key=lambda point: point[1])
    rise = live[-1][1] / least - 1
    if rise < RISE:
        return f"No sign of over-fitting: the loss ends {rise:.1%} above its least value, and {RISE:.0%} would be one."
    risen = f"since step {best} the evaluation loss has risen by {rise:.1%}"
    after = [loss for step, loss in training if step > best][-WINDOW:]
    before = [loss for step, loss in training if step <= best][-len(after) :] if after else []
    if not before:
        return f"It may be over-fitting: {risen}; too few training losses were logged to tell."
    first, last = math.fsum(before) / len(before), math.fsum(after) / len(after)
    if last < first:
        return f"It over-fits: {risen}, while the training loss fell from {first:.4f} to {last:.4f}."
    return (
        f"It gets worse, but does not over-fit: {risen}, and the training loss did not fall "
        f"({first:.4f}, then {last:.4f}); a lower learning rate may help."
    )


def _clip(scores: Series) -> str:
    # Pictures may be made of the average alone.
    step, value = (scores.live or scores.average)[-1]
    whose = "CLIP score" if scores.live else "CLIP score of the moving average"
    if scores.base is None:
        return f"{whose} after step {step}: {value:.4f}."
    return f"{whose}: {scores.base:.4f} before, {value:.4f} after step {step} ({value - scores.base:+.4f})."
