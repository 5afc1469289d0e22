"""Building the plan from data set entries and the files in their folders."""

from __future__ import annotations

import functools
import gc
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tuner.config.datasets import DatasetConfig
from tuner.data.captions import MissingCaption, captions_for
from tuner.data.geometry import Size, SizeRules, draws_geometry, edge_of, picture_geometry, too_small
from tuner.data.headers import read_headers
from tuner.data.images import IMAGE_SUFFIXES
from tuner.data.index import FileIndex, HeaderRow
from tuner.data.masks import MaskFolder, MissingMask
from tuner.data.plan import Bucket, DatasetTotals, Plan, Unused
from tuner.data.report import format_unused
from tuner.data.sample import Geometry, Sample
from tuner.data.scan import Listing, list_images
from tuner.errors import ConfigError, DatasetError, Problem

_REPLACE = "repair, replace or remove the file"
_LARGER = "lower minimum_image_size (0 keeps all) or use larger pictures"


def build_plan(
    datasets: Sequence[DatasetConfig],
    *,
    batch_size: int,
    accumulation: int,
    alignment: int,
    aspect_rounding: int,
    keep_small_buckets: bool,
    seed: int,
    index: FileIndex,
    canvas_limit: int | None = None,
    side_limit: int | None = None,
    stride: int = 1,
    excluded: Mapping[str, str] | None = None,
    mask_folders: Mapping[str, Path] | None = None,
    source: str = "data set file",
) -> Plan:
    """Sort the pictures of all data sets into buckets. The same files and arguments always give the same plan.

    Args:
        datasets: Entries of the data set file, with the run's defaults filled in.
        batch_size: Samples in a micro-batch.
        accumulation: Micro-batches in an optimizer step.
        alignment: Sides are rounded to multiples of this many pixels.
        aspect_rounding: Decimals to which aspects are rounded; fewer give fewer buckets.
        keep_small_buckets: Keep buckets that give fewer samples per epoch than `batch_size`.
        seed: Of drawn crops and aspects.
        index: Remembers headers, so that planning again opens no picture.
        canvas_limit: Largest number of pixels that the model takes. Buckets that rounding or an aspect takes
            beyond it are made smaller.
        side_limit: Longest side in pixels that the model takes; buckets beyond it are cropped to it.
        stride: Pixels per latent cell. Sides are multiples of it, too.
        excluded: Sample key -> why it must not be used, such as pixels that turned out to be damaged.
        mask_folders: Data set id -> folder of its masks.
        source: Name of the data set file, for messages.

    Raises:
        ConfigError: Entries that cannot be followed: a missing folder, a crop style that is not available, a
            resolution beyond the canvas limit. All of them at once.
        DatasetError: Data sets of which no picture is left.
    """
    rules = SizeRules(math.lcm(alignment, stride), aspect_rounding, canvas_limit, side_limit)
    problems = [problem for dataset in datasets for problem in _problems(dataset, rules, source)]
    if problems:
        raise ConfigError(problems)
    buckets: list[Bucket] = []
    unused: list[Unused] = []
    totals: list[DatasetTotals] = []
    least = 1 if keep_small_buckets else batch_size
    for dataset in datasets:
        with _garbage_kept():
            listing = list_images(dataset.instance_data_dir)
            headers = read_headers(dataset.instance_data_dir, listing.images, index)
            mask_folder = (mask_folders or {}).get(dataset.id)
            masks = MaskFolder(mask_folder, index) if mask_folder else None
            sizes, faulty = _sort_pictures(dataset, listing, headers, rules, seed, excluded or {}, masks)
        kept, pruned = _make_buckets(dataset, sizes, aspect_rounding, least)
        used = sum(len(bucket.samples) for bucket in kept)
        buckets += kept
        unused += sorted(faulty + pruned, key=lambda item: item.key)
        totals.append(DatasetTotals(dataset.id, len(listing.images) + len(listing.unreadable), used, listing.other))
    _refuse_empty(datasets, totals, unused)
    return Plan(tuple(buckets), tuple(unused), tuple(totals), batch_size, accumulation)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Stop the garbage collector. It would walk the growing lists again and again: 40% of planning a large set."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _problems(dataset: DatasetConfig, rules: SizeRules, source: str) -> Iterable[Problem]:
    name = f"{source}, data set {dataset.id!r}"
    folder = dataset.instance_data_dir
    if not folder.is_dir():
        fault = "is not a folder" if folder.exists() else "does not exist"
        yield Problem(f"{folder} {fault}", name, "instance_data_dir", "give the folder that holds the pictures")
    elif not os.access(folder, os.R_OK | os.X_OK):
        yield Problem(f"{folder} cannot be listed: permission denied", name, "instance_data_dir", "allow reading it")
    if dataset.crop and dataset.crop_style == "face":
        remedy = "use center, random or corner"
        yield Problem("face is not available yet", name, "crop_style", remedy)
    edge = edge_of(dataset.resolution, dataset.resolution_type)
    canvas_limit = rules.canvas_limit
    if rules.side_limit is not None and edge > rules.side_limit:
        message = f"{dataset.resolution:g} ({dataset.resolution_type}) asks for sides of {edge:.0f} pixels"
        remedy = f"choose a resolution of at most {rules.side_limit} pixels"
        yield Problem(f"{message}; the model takes at most {rules.side_limit}", name, "resolution", remedy)
    if canvas_limit is not None and edge * edge > canvas_limit:
        most = canvas_limit / 1024**2 if dataset.resolution_type == "area" else math.isqrt(canvas_limit)
        yield Problem(
            f"{dataset.resolution:g} ({dataset.resolution_type}) asks for {edge * edge:.0f} pixels; "
            f"the model takes at most {canvas_limit}",
            name,
            "resolution",
            f"set resolution to {most:g} or less",
        )


def _sort_pictures(
    dataset: DatasetConfig,
    listing: Listing,
    headers: Iterable[HeaderRow],
    rules: SizeRules,
    seed: int,
    excluded: Mapping[str, str],
    masks: MaskFolder | None,
) -> tuple[dict[Size, list[Sample]], list[Unused]]:
    """Give every usable picture its captions and geometry. Returns samples by size, and the rest with reasons."""
    shape = _shaper(dataset, rules, seed)
    sizes: dict[Size, list[Sample]] = defaultdict(list)
    unused = [Unused(dataset.id, f"{dataset.id}/{name}", why, _REPLACE) for name, why in listing.unreadable.items()]
    small = f"is smaller than minimum_image_size {dataset.minimum_image_size or 0:g} ({dataset.resolution_type})"
    for item, header in zip(listing.images, headers, strict=True):
        key = f"{dataset.id}/{item.relative}"
        fault = header.error or excluded.get(key)
        if fault:
            unused.append(Unused(dataset.id, key, fault, _REPLACE))
            continue
        geometry = shape((header.width, header.height), key)
        if geometry is None:
            unused.append(Unused(dataset.id, key, small, _LARGER))
            continue
        path = Path(item.path)
        try:
            captions = captions_for(dataset, path)
            mask = masks.mask_of(item.relative, (header.width, header.height)) if masks else None
        except (MissingCaption, MissingMask) as error:
            unused.append(Unused(dataset.id, key, error.reason, error.remedy))
        else:
            sizes[geometry.size].append(Sample(key, dataset.id, path, captions, geometry, mask))
    return sizes, unused


def _shaper(dataset: DatasetConfig, rules: SizeRules, seed: int) -> Callable[[Size, str], Geometry | None]:
    """Return (source size, key) -> geometry, None for pictures that are too small."""

    def shape(source: Size, key: str) -> Geometry | None:
        return None if too_small(dataset, source) else picture_geometry(dataset, source, rules, seed, key)

    if draws_geometry(dataset):
        return shape
    by_size = functools.cache(lambda source: shape(source, ""))  # large sets have few sizes
    return lambda source, key: by_size(source)


def _make_buckets(
    dataset: DatasetConfig, sizes: Mapping[Size, list[Sample]], aspect_rounding: int, least: int
) -> tuple[list[Bucket], list[Unused]]:
    """Make buckets, and prune those that give fewer than `least` samples per epoch."""
    kept, pruned = [], []
    for size, samples in sorted(sizes.items()):
        aspect = round(size[0] / size[1], aspect_rounding)
        bucket = Bucket(dataset.id, size, aspect, tuple(samples), dataset.repeats)
        if bucket.draws >= least:
            kept.append(bucket)
            continue
        count = f"{bucket.draws} sample{'s' if bucket.draws != 1 else ''}"
        reason = f"its bucket {size[0]}x{size[1]} gives {count} per epoch, fewer than train_batch_size {least}"
        remedy = (
            f"set repeats to {math.ceil(least / len(samples)) - 1} or more, train_batch_size to {bucket.draws}, "
            "or disable_bucket_pruning to true"
        )
        pruned += [Unused(dataset.id, sample.key, reason, remedy) for sample in samples]
    return kept, pruned


def _refuse_empty(datasets: Sequence[DatasetConfig], totals: Sequence[DatasetTotals], unused: Sequence[Unused]) -> None:
    messages = []
    for dataset, total in zip(datasets, totals, strict=True):
        if total.used:
            continue
        head = f"no images detected in data set {dataset.id!r} ({dataset.instance_data_dir})"
        if total.found:
            own = [item for item in unused if item.dataset == dataset.id]
            messages.append("\n".join([f"{head}: none of its {total.found} can be trained on", *format_unused(own)]))
        else:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            others = f"; other files: {total.describe_others()}" if total.other_files else ""
            messages.append(f"{head}: it holds no file with suffix {suffixes}{others}\n    -> put pictures into it")
    if messages:
        raise DatasetError("\n".join(messages))
