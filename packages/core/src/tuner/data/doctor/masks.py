"""Masks that belong to no picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tuner.data.doctor.finding import Finding
from tuner.data.plan import Plan
from tuner.data.report import counted
from tuner.data.scan import list_images


def spare_masks(plan: Plan, folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Yield folders that hold masks of no picture.

    Args:
        plan: The plan.
        folders: Data set -> folder of its masks.
    """
    for dataset, folder in folders.items():
        keys = [sample.key for bucket in plan.buckets if bucket.dataset == dataset for sample in bucket.samples]
        keys += [item.key for item in plan.unused if item.dataset == dataset]
        pictures = {_stem(key.removeprefix(f"{dataset}/")) for key in keys}
        spare = [item.relative for item in list_images(folder).images if _stem(item.relative) not in pictures]
        if spare:
            yield Finding(
                "warning",
                "spare masks",
                dataset,
                f"{counted(len(spare), 'mask')} in {folder} {'belongs' if len(spare) == 1 else 'belong'} to no picture",
                "give each mask the relative path of its picture, whatever its suffix, or remove it",
                tuple(spare),
            )


def _stem(relative: str) -> str:
    return Path(relative).with_suffix("").as_posix()
