"""Masks that belong to no picture, and masks that leave nothing of theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from tuner.data.doctor.finding import Bar, Finding
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


def black_masks(plan: Plan, bar: Bar) -> Iterator[Finding]:
    """Yield data sets with masks that are black all over. Files that cannot be read are for others to name."""
    masked = [sample for bucket in plan.buckets for sample in bucket.samples if sample.mask is not None]
    black: dict[str, list[str]] = {}
    if not masked:
        return
    with bar("masks", "mask") as report:
        for done, sample in enumerate(masked, start=1):
            with contextlib.suppress(OSError, Image.DecompressionBombError):
                if _is_black(sample.mask):
                    black.setdefault(sample.dataset, []).append(sample.key)
            report(done, len(masked))
    for dataset, keys in black.items():
        yield Finding(
            "warning",
            "black masks",
            dataset,
            f"{counted(len(keys), 'image has', 'images have')} a mask that is black all over, so nothing is learnt",
            "make white what is to be learnt, or leave the picture out",
            tuple(sorted(set(keys))),
        )


def _is_black(path: Path | None) -> bool:
    assert path is not None
    with Image.open(path) as image:
        return image.convert("RGB").getbbox() is None


def _stem(relative: str) -> str:
    return Path(relative).with_suffix("").as_posix()
