"""Pictures to evaluate with that are trained on as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tuner.data.doctor.finding import Bar, Finding, no_bar
from tuner.data.doctor.pictures import KnownFiles, hashes
from tuner.data.index import FileIndex
from tuner.data.plan import Plan
from tuner.data.report import counted
from tuner.data.scan import list_images


def trained_on(
    plan: Plan, folders: Mapping[str, Path], files: KnownFiles, index: FileIndex, bar: Bar = no_bar
) -> Iterator[Finding]:
    """Yield data sets to evaluate with that hold, byte for byte, pictures of the plan.

    Args:
        plan: What is trained on.
        folders: Data set to evaluate with -> its folder.
        files: What is known about the files of the plan.
        index: Remembers hashes.
        bar: Shows progress where files must be read.
    """
    paths = [str(sample.path) for bucket in plan.buckets for sample in bucket.samples]
    trained = {path: files.headers[path][:3] for path in paths if path in files.headers}
    for dataset, folder in folders.items():
        found = list_images(folder).images
        stamps = {item.path: (item.path, item.size, item.mtime_ns) for item in found}
        shared = {stamp[1] for stamp in trained.values()} & {stamp[1] for stamp in stamps.values()}
        candidates = {path: stamp for path, stamp in {**trained, **stamps}.items() if stamp[1] in shared}
        contents = dict(hashes(candidates, files, index, bar))
        known = {contents[path] for path in trained if path in contents}
        both = [f"{dataset}/{item.relative}" for item in found if contents.get(item.path) in known]
        if both:
            yield Finding(
                "warning",
                "evaluation",
                dataset,
                f"{len(both)} of {counted(len(found), 'image')} to evaluate with are trained on as well, byte for byte",
                "take them out of one of the two: the loss of pictures that were trained on shows no overfitting",
                tuple(both),
            )
