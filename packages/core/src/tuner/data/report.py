"""The plan as people and programs read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tuner.data.order import batches_per_epoch, steps_per_epoch
from tuner.data.plan import Bucket, Plan, Unused

_COLUMNS = ("data set", "bucket", "aspect", "images", "repeats", "samples", "batch", "batches")
_NAMES_SHOWN = 3


def format_plan(plan: Plan) -> str:
    """Return the plan as aligned plain text: buckets, totals, and what is not used and why."""
    text = format_buckets(plan)
    if not plan.unused:
        return text
    return "\n".join([text, "", f"not used: {counted(len(plan.unused), 'image')}", *format_unused(plan.unused)])


def format_buckets(plan: Plan) -> str:
    """Return what is trained on as aligned plain text: buckets and totals."""
    rows = [_row(bucket) for bucket in plan.buckets]
    lines = [*_table([_COLUMNS, *rows]), "", *_totals(plan)]
    for total in plan.totals:
        if total.other_files:
            lines.append(f"{total.dataset}: files that are no pictures: {total.describe_others()}")
    return "\n".join(lines)


def format_unused(unused: Iterable[Unused]) -> list[str]:
    """Return lines that tell, reason by reason, how many pictures are not used, the first of them, and the remedy."""
    lines = []
    for (dataset, reason, remedy), keys in group_unused(unused).items():
        lines += [f"  - {dataset}: {counted(len(keys), 'image')}: {reason} ({shortened(keys)})", f"    -> {remedy}"]
    return lines


def group_unused(unused: Iterable[Unused]) -> dict[tuple[str, str, str], list[str]]:
    """Return (data set, reason, remedy) -> keys of the pictures, in the order in which they come."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for item in unused:
        groups[item.dataset, item.reason, item.remedy].append(item.key)
    return groups


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values, without the list of its samples."""
    return {
        "fingerprint": plan.fingerprint(),
        "train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulation // plan.processes,
        "num_processes": plan.processes,
        "batches_per_epoch": batches_per_epoch(plan),
        "steps_per_epoch": steps_per_epoch(plan),
        "buckets": [
            {
                "dataset": bucket.dataset,
                "width": bucket.size[0],
                "height": bucket.size[1],
                "aspect": bucket.aspect,
                "images": len(bucket.samples),
                "repeats": bucket.repeats,
                "samples": bucket.draws,
                "train_batch_size": bucket.batch_size,
                "batches": bucket.batches(),
            }
            for bucket in plan.buckets
        ],
        "datasets": [
            {"id": total.dataset, "found": total.found, "used": total.used, "other_files": dict(total.other_files)}
            for total in plan.totals
        ],
        "unused": [{"image": item.key, "reason": item.reason, "remedy": item.remedy} for item in plan.unused],
    }


def _row(bucket: Bucket) -> tuple[str, ...]:
    size = f"{bucket.size[0]}x{bucket.size[1]}"
    counts = (len(bucket.samples), bucket.repeats, bucket.draws, bucket.batch_size, bucket.batches())
    return (bucket.dataset, size, f"{bucket.aspect:g}", *(str(count) for count in counts))


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    aligned = [(row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])) for row in rows]
    return ["  ".join(cells) for cells in aligned]


def _totals(plan: Plan) -> list[str]:
    images = sum(len(bucket.samples) for bucket in plan.buckets)
    samples = sum(bucket.draws for bucket in plan.buckets)
    counts = [
        counted(images, "image"),
        f"{counted(samples, 'sample')} per epoch",
        f"{counted(batches_per_epoch(plan), 'batch', 'batches')} of {_batch_sizes(plan)}",
        f"{counted(steps_per_epoch(plan), 'optimizer step')} of {counted(plan.accumulation, 'batch', 'batches')}",
    ]
    if plan.processes > 1:
        counts[-1] += f" on {plan.processes} processes"
    return ["total: " + ", ".join(counts)]


def _batch_sizes(plan: Plan) -> str:
    return " or ".join(str(size) for size in sorted({bucket.batch_size for bucket in plan.buckets}))


def shortened(names: Sequence[str]) -> str:
    """Return the first names, separated by commas, and dots if there are more."""
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return "1 image", "2 images"."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
