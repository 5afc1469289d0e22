"""Building the plan from data set entries and the files in their folders."""

from __future__ import annotations

import functools
import gc
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tuner.config.datasets import DatasetConfig
from tuner.data.buckets import BatchRules, make_buckets
from tuner.data.captions import MissingCaption, open_captions
from tuner.data.discovery import discover
from tuner.data.entries import entry_problems
from tuner.data.faces import crops_to_faces, find_faces
from tuner.data.filters import LeftOut, describe_filters, left_out
from tuner.data.geometry import Box, Size, SizeRules, draws_geometry, picture_geometry
from tuner.data.images import IMAGE_SUFFIXES
from tuner.data.index import FileIndex, HeaderRow
from tuner.data.masks import MaskFolder, MissingMask
from tuner.data.plan import Bucket, DatasetTotals, Plan, Unused
from tuner.data.report import format_unused
from tuner.data.sample import Geometry, Sample
from tuner.data.scan import Listing
from tuner.errors import ConfigError, DatasetError

_REPLACE = "repair, replace or remove the file"

_Shaper = Callable[[HeaderRow, str], Geometry | LeftOut]
"""(header, key) -> how the picture is resized and cropped, or why it is left out."""


def build_plan(
    datasets: Sequence[DatasetConfig],
    *,
    batch_size: int,
    accumulation: int,
    processes: int = 1,
    alignment: int,
    aspect_rounding: int,
    keep_small_buckets: bool,
    seed: int,
    index: FileIndex,
    oversubscribe: bool = False,
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
        batch_size: Samples in a micro-batch of data sets that give no number of their own.
        accumulation: Micro-batches in an optimizer step of one process.
        processes: Processes that train together.
        alignment: Sides are rounded to multiples of this many pixels.
        aspect_rounding: Decimals to which aspects are rounded; fewer give fewer buckets.
        keep_small_buckets: Keep buckets that give fewer samples per epoch than a batch holds.
        seed: Of drawn crops and aspects.
        index: Remembers headers and faces, so that planning again opens no picture.
        oversubscribe: Raise repeats, where a data set gives none, until each of its buckets fills a batch.
        canvas_limit: Largest number of pixels that the model takes. Buckets that rounding or an aspect takes
            beyond it are made smaller.
        side_limit: Longest side in pixels that the model takes; buckets beyond it are cropped to it.
        stride: Pixels per latent cell. Sides are multiples of it, too.
        excluded: Sample key -> why it must not be used, such as pixels that turned out to be damaged.
        mask_folders: Data set id -> folder of its masks.
        source: Name of the data set file, for messages.

    Raises:
        ConfigError: Entries that cannot be followed: a missing folder, a crop style whose package is missing, a
            resolution beyond the canvas limit. All of them at once.
        DatasetError: Data sets of which no picture is left.
    """
    rules = SizeRules(math.lcm(alignment, stride), aspect_rounding, canvas_limit, side_limit)
    if problems := [problem for dataset in datasets for problem in entry_problems(dataset, rules, source)]:
        raise ConfigError(problems)
    batches = BatchRules(
        batch_size, accumulation * processes, processes, aspect_rounding, keep_small_buckets, oversubscribe
    )
    buckets: list[Bucket] = []
    unused: list[Unused] = []
    totals: list[DatasetTotals] = []
    for dataset in datasets:
        with _garbage_kept():
            listing, headers = discover(dataset, index)
            mask_folder = (mask_folders or {}).get(dataset.id)
            masks = MaskFolder(mask_folder, index) if mask_folder else None
            faces = _find_faces(dataset, headers, index)
            shape = _shaper(dataset, rules, seed, faces)
            sizes, faulty = _sort_pictures(dataset, listing, headers, shape, excluded or {}, masks)
        kept, pruned = make_buckets(dataset, sizes, batches)
        used = sum(len(bucket.samples) for bucket in kept)
        buckets += kept
        unused += sorted(faulty + pruned, key=lambda item: item.key)
        totals.append(DatasetTotals(dataset.id, len(listing.images) + len(listing.unreadable), used, listing.other))
    _refuse_empty(datasets, totals, unused, batches)
    return Plan(tuple(buckets), tuple(unused), tuple(totals), batch_size, batches.accumulation, processes)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Stop the garbage collector. It would walk the growing lists again and again: 40% of planning a large set."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            caller_froze = gc.get_freeze_count() > 0
            gc.freeze()  # there and back puts all that was made among the old, so that it is not walked right now
            if not caller_froze:
                gc.unfreeze()
            gc.enable()


def _find_faces(dataset: DatasetConfig, headers: Iterable[HeaderRow], index: FileIndex) -> Mapping[str, Box | None]:
    """Return absolute path -> face of the pictures that are cropped to their faces."""
    if not crops_to_faces(dataset):
        return {}
    usable = [row for row in headers if not row.error and not left_out(dataset, (row.width, row.height))]
    return find_faces(dataset.folder, usable, index)


def _shaper(dataset: DatasetConfig, rules: SizeRules, seed: int, faces: Mapping[str, Box | None]) -> _Shaper:
    """Return what says how the pictures of a data set are resized and cropped."""

    def shape(source: Size, key: str, face: Box | None) -> Geometry | LeftOut:
        return left_out(dataset, source) or picture_geometry(dataset, source, rules, seed, key, face)

    if draws_geometry(dataset):
        return lambda header, key: shape((header.width, header.height), key, faces.get(header.path))
    by_size = functools.cache(lambda source: shape(source, "", None))  # large sets have few sizes
    return lambda header, key: by_size((header.width, header.height))


def _sort_pictures(
    dataset: DatasetConfig,
    listing: Listing,
    headers: Iterable[HeaderRow],
    shape: _Shaper,
    excluded: Mapping[str, str],
    masks: MaskFolder | None,
) -> tuple[dict[Size, list[Sample]], list[Unused]]:
    """Give every usable picture its captions and geometry. Returns samples by size, and the rest with reasons."""
    captions_of = open_captions(dataset, (item.relative for item in listing.images))
    sizes: dict[Size, list[Sample]] = defaultdict(list)
    unused = [Unused(dataset.id, f"{dataset.id}/{name}", why, _REPLACE) for name, why in listing.unreadable.items()]
    for item, header in zip(listing.images, headers, strict=True):
        key = f"{dataset.id}/{item.relative}"
        fault = header.error or excluded.get(key)
        if fault:
            unused.append(Unused(dataset.id, key, fault, _REPLACE))
            continue
        geometry = shape(header, key)
        if isinstance(geometry, LeftOut):
            unused.append(Unused(dataset.id, key, *geometry, asked=True))
            continue
        try:
            captions = captions_of(item.relative, item.path)
            mask = masks.mask_of(item.relative, (header.width, header.height)) if masks else None
        except (MissingCaption, MissingMask) as error:
            unused.append(Unused(dataset.id, key, error.reason, error.remedy))
        else:
            sizes[geometry.size].append(Sample(key, dataset.id, item.path, captions, geometry, mask))
    return sizes, unused


def _refuse_empty(
    datasets: Sequence[DatasetConfig], totals: Sequence[DatasetTotals], unused: Sequence[Unused], batches: BatchRules
) -> None:
    messages = []
    for dataset, total in zip(datasets, totals, strict=True):
        if total.used:
            continue
        head = f"no images detected in data set {dataset.id!r} ({dataset.folder})"
        if total.found:
            own = [item for item in unused if item.dataset == dataset.id]
            lines = [f"{head}: none of its {total.found} can be trained on", f"  with {_rules(dataset, batches)}"]
            messages.append("\n".join([*lines, *format_unused(own)]))
        else:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            others = f"; other files: {total.describe_others()}" if total.other_files else ""
            messages.append(f"{head}: it holds no file with suffix {suffixes}{others}\n    -> put pictures into it")
    if messages:
        raise DatasetError("\n".join(messages))


def _rules(dataset: DatasetConfig, batches: BatchRules) -> str:
    """Return what decides which pictures of a data set are used."""
    counts = [f"train_batch_size {batches.batch_size_of(dataset)}"]
    if (accumulation := batches.accumulation // batches.processes) > 1:
        counts.append(f"gradient_accumulation_steps {accumulation}")
    if batches.processes > 1:
        counts.append(f"num_processes {batches.processes}")
    return ", ".join([*counts, f"repeats {dataset.repeats}", *describe_filters(dataset)])
