"""Pictures: those that are left out, those that are there twice, and those that are enlarged."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from tuner.data.doctor.finding import Bar, Finding, no_bar
from tuner.data.index import FileIndex, HeaderRow
from tuner.data.plan import Plan
from tuner.data.report import counted, group_unused
from tuner.data.sample import Sample
from tuner.data.scan import absolute

Stamp = tuple[str, int, int]
"""Absolute path, bytes, and time of the last change in nanoseconds of a file."""


@dataclass(frozen=True)
class KnownFiles:
    """What the index knows about the files of a plan.

    Attributes:
        headers: Absolute path -> what planning learnt about the file.
        hashes: Stamp of a file -> hash of its content.
    """

    headers: Mapping[str, HeaderRow]
    hashes: Mapping[Stamp, str]


def known_files(plan: Plan, index: FileIndex) -> KnownFiles:
    """Look up the files of a plan."""
    folders = {absolute(_folder_of(sample)) for bucket in plan.buckets for sample in bucket.samples[:1]}
    headers: dict[str, HeaderRow] = {}
    hashes: dict[Stamp, str] = {}
    for folder in sorted(folders):
        headers.update(index.headers_below(folder))
        hashes.update(index.hashes_below(folder))
    return KnownFiles(headers, hashes)


def _folder_of(sample: Sample) -> Path:
    """Return the folder of the data set that a picture belongs to."""
    below = Path(sample.key.removeprefix(f"{sample.dataset}/"))
    return sample.path.parents[len(below.parts) - 1]


def left_out(plan: Plan) -> Iterator[Finding]:
    """Yield why pictures are not trained on; where a setting asks for that, it is no mistake."""
    for asked in (False, True):
        unused = [item for item in plan.unused if item.asked == asked]
        for (dataset, reason, remedy), keys in group_unused(unused).items():
            message = f"{counted(len(keys), 'image')} not used: {reason}"
            yield Finding("note" if asked else "warning", "unused", dataset, message, remedy, tuple(keys))


def duplicates(plan: Plan, files: KnownFiles, index: FileIndex, bar: Bar = no_bar) -> Iterator[Finding]:
    """Yield pictures that are equal byte for byte, within a data set and across two.

    A file that several data sets read is no duplicate. Only files of equal size are hashed.

    Args:
        plan: The plan.
        files: What is known about its files.
        index: Remembers hashes.
        bar: Shows progress where files must be read.
    """
    groups = _equal_files(plan, files, index, bar)
    for dataset in _ids(plan):
        within = [samples for group in groups if len(samples := group.get(dataset, [])) > 1]
        if within:
            surplus = sum(len(samples) - 1 for samples in within)
            yield Finding(
                "warning",
                "duplicates",
                dataset,
                f"{counted(surplus, 'image repeats another', 'images repeat others')} byte for byte",
                "remove the copies; repeats is the way to show pictures more often",
                tuple(" = ".join(sample.key for sample in samples) for samples in within),
            )
    for first, second in combinations(_ids(plan), 2):
        across = [group for group in groups if _in_both(group, first, second)]
        if across:
            yield Finding(
                "warning",
                "duplicates",
                f"{first}, {second}",
                f"{counted(len(across), 'image is', 'images are')} in both, byte for byte, as copies",
                "keep each picture in one data set; to train at several sizes, name one folder in several entries",
                tuple(f"{group[first][0].key} = {group[second][0].key}" for group in across),
            )


def _in_both(group: Mapping[str, list[Sample]], first: str, second: str) -> bool:
    """Say whether both data sets hold a content in files of their own."""
    if first not in group or second not in group:
        return False
    return {sample.path for sample in group[first]}.isdisjoint(sample.path for sample in group[second])


def _equal_files(plan: Plan, files: KnownFiles, index: FileIndex, bar: Bar) -> list[dict[str, list[Sample]]]:
    """Return, for every content of files of equal size, its samples by data set."""
    by_size: dict[int, dict[str, list[Sample]]] = defaultdict(dict)
    for sample in _samples(plan):
        if header := files.headers.get(str(sample.path)):
            by_size[header.size].setdefault(header.path, []).append(sample)
    candidates = {path: samples for same in by_size.values() if len(same) > 1 for path, samples in same.items()}
    by_content: dict[str, dict[str, list[Sample]]] = defaultdict(dict)
    stamps = {path: files.headers[path][:3] for path in candidates}
    for path, content in hashes(stamps, files, index, bar):
        by_content[content][path] = candidates[path]
    groups = []
    for same in by_content.values():
        group: dict[str, list[Sample]] = defaultdict(list)
        for sample in sorted((sample for samples in same.values() for sample in samples), key=_key):
            group[sample.dataset].append(sample)
        groups.append(group)
    return sorted(groups, key=lambda group: min(samples[0].key for samples in group.values()))


def hashes(stamps: Mapping[str, Stamp], files: KnownFiles, index: FileIndex, bar: Bar) -> Iterator[tuple[str, str]]:
    """Yield (path, hash of the content). Files that are gone are passed over: whoever needs them will say so."""
    known = {path: files.hashes[stamp] for path, stamp in stamps.items() if stamp in files.hashes}
    yield from known.items()
    unknown = [path for path in stamps if path not in known]
    with bar("files of equal size", "file") as report:
        for done, path in enumerate(unknown, start=1):
            with contextlib.suppress(OSError):
                yield path, index.content_hash(path)
            report(done, len(unknown))


def enlarged(plan: Plan, files: KnownFiles) -> Iterator[Finding]:
    """Yield data sets of which more than half the pictures have fewer pixels than they are trained at."""
    for dataset in _ids(plan):
        samples = [sample for sample in _samples(plan) if sample.dataset == dataset]
        small = []
        for sample in samples:
            header = files.headers.get(str(sample.path))
            width, height = sample.geometry.resize
            if header and header.width * header.height < width * height:
                small.append(f"{sample.key}: {header.width}x{header.height} to {width}x{height}")
        if 2 * len(small) > len(samples):
            yield Finding(
                "warning",
                "enlarged",
                dataset,
                f"{len(small)} of {counted(len(samples), 'image')} have fewer pixels than they are trained at",
                "lower resolution, use larger pictures, or leave small ones out with minimum_image_size",
                tuple(small),
            )


def _samples(plan: Plan) -> Iterator[Sample]:
    return (sample for bucket in plan.buckets for sample in bucket.samples)


def _ids(plan: Plan) -> list[str]:
    return [total.dataset for total in plan.totals]


def _key(sample: Sample) -> str:
    return sample.key
