"""How the sizes of buckets and batches go together, and how long a run is."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.data.doctor.finding import Finding
from tuner.data.order import batches_per_epoch, steps_per_epoch
from tuner.data.plan import Bucket, Plan
from tuner.data.report import counted


def small_buckets(plan: Plan) -> Iterator[Finding]:
    """Yield buckets that fill no batch, and those that fill no optimizer step."""
    for total in plan.totals:
        buckets = [bucket for bucket in plan.buckets if bucket.dataset == total.dataset]
        short = [bucket for bucket in buckets if bucket.draws < bucket.batch_size]
        if short:
            yield Finding(
                "warning",
                "short batches",
                total.dataset,
                f"{counted(len(short), 'bucket')} with fewer samples than a batch of {short[0].batch_size}",
                "raise repeats, lower train_batch_size, or set disable_bucket_pruning to false to leave them out",
                _shown(short),
            )
        mixed = [bucket for bucket in buckets if 1 <= bucket.draws / bucket.batch_size < plan.accumulation]
        if mixed:
            size = mixed[0].batch_size
            yield Finding(
                "note",
                "short steps",
                total.dataset,
                f"{counted(len(mixed), 'bucket')} with fewer samples than an optimizer step of "
                f"{size * plan.accumulation} ({plan.accumulation} batches of {size}): a step takes others beside them",
                f"raise repeats or lower {_divisors(plan)} where that matters",
                _shown(mixed),
            )


def _divisors(plan: Plan) -> str:
    """Return the settings that make an optimizer step take several batches."""
    several = {
        "gradient_accumulation_steps": plan.accumulation > plan.processes,
        "num_processes": plan.processes > 1,
    }
    return " or ".join(name for name, counts in several.items() if counts)


def large_encoder_batches(plan: Plan, vae_batch_size: int) -> Iterator[Finding]:
    """Yield data sets with buckets that hold fewer pictures than are encoded at once."""
    for total in plan.totals:
        small = [
            bucket
            for bucket in plan.buckets
            if bucket.dataset == total.dataset and len(bucket.samples) < vae_batch_size
        ]
        if small:
            yield Finding(
                "note",
                "encoder batches",
                total.dataset,
                f"{counted(len(small), 'bucket')} with fewer images than vae_batch_size {vae_batch_size}: "
                "they are encoded in smaller batches",
                "nothing needs to be done",
                _shown(small),
            )


def _shown(buckets: list[Bucket]) -> tuple[str, ...]:
    return tuple(f"{bucket.size[0]}x{bucket.size[1]}: {counted(bucket.draws, 'sample')}" for bucket in buckets)


def length_as_json(plan: Plan, max_train_steps: int, num_train_epochs: int) -> dict[str, float]:
    """Return how long a run is, in steps and in epochs; one of the two is given and the other 0."""
    steps = max_train_steps or num_train_epochs * steps_per_epoch(plan)
    epochs = num_train_epochs or max_train_steps * plan.accumulation / batches_per_epoch(plan)
    return {"steps": steps, "epochs": round(epochs, 3), "steps_per_epoch": steps_per_epoch(plan)}


def describe_length(plan: Plan, max_train_steps: int, num_train_epochs: int) -> str:
    """Return the same as a line for people."""
    length = length_as_json(plan, max_train_steps, num_train_epochs)
    epochs = f"{length['epochs']:g} epoch{'' if length['epochs'] == 1 else 's'}"
    return f"length: {counted(int(length['steps']), 'step')}, {epochs} of {counted(steps_per_epoch(plan), 'step')}"
