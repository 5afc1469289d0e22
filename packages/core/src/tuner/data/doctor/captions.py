"""Captions: those that look forgotten."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tuner.config.datasets import DatasetConfig
from tuner.data.doctor.finding import Finding
from tuner.data.plan import Plan
from tuner.data.report import counted
from tuner.data.sample import Sample

PLACEHOLDER = "<token>"
"""Stands in published prompts where the subject's name belongs."""

_LEAST_PICTURES = 10
"""Fewer pictures than this may well have one caption."""

_CAMERA = re.compile(
    r"(_?(img|imgp|mg|dsc|dscn|dscf|cimg|kimg|sam|pxl|mvimg|dji|gopr|gx|gh|p|vid|wp|scan|frame|image|photo|picture|pic"
    r"|screen[ _-]?shot|whatsapp[ _-]image))?((at|wa|am|pm|copy|edited|burst|hdr|portrait|night|mp)(?![a-z])|[\W\d_])*",
    re.IGNORECASE,
)
_HASH = re.compile(r"[0-9a-f]{12,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def equal_captions(plan: Plan, datasets: Sequence[DatasetConfig]) -> Iterator[Finding]:
    """Yield data sets with captions of their own in which more than half of at least 10 pictures share one."""
    for dataset in datasets:
        samples = _samples(plan, dataset)
        if dataset.caption_strategy == "instanceprompt" or dataset.only_instance_prompt:
            continue
        if len(samples) < _LEAST_PICTURES:
            continue
        caption, number = Counter(sample.captions for sample in samples).most_common(1)[0]
        if 2 * number > len(samples):
            yield Finding(
                "warning",
                "equal captions",
                dataset.id,
                f"{number} of {counted(len(samples), 'image')} have the same caption",
                "describe what differs between the pictures; where one caption is meant, "
                "use caption_strategy instanceprompt",
                tuple(repr(text) for text in caption),
            )


def file_names(plan: Plan, datasets: Sequence[DatasetConfig]) -> Iterator[Finding]:
    """Yield data sets whose captions are file names that a camera or a program gave."""
    for dataset in datasets:
        if dataset.caption_strategy != "filename" or dataset.only_instance_prompt:
            continue
        samples = _samples(plan, dataset)
        wordless = [sample.key for sample in samples if says_nothing(sample.path.stem)]
        if wordless:
            yield Finding(
                "warning",
                "file names",
                dataset.id,
                f"{len(wordless)} of {counted(len(samples), 'caption')} are file names that describe nothing",
                "rename the files after what they show, or choose another caption_strategy, such as textfile",
                tuple(wordless),
            )


def says_nothing(stem: str) -> bool:
    """Say whether a file name without suffix is of the kind of IMG_1234, 000017 or a hash."""
    return bool(_HASH.fullmatch(stem) or (_CAMERA.fullmatch(stem) and any(letter.isdigit() for letter in stem)))


def placeholders(plan: Plan, datasets: Sequence[DatasetConfig], prompts: Mapping[str, str]) -> Iterator[Finding]:
    """Yield captions, instance prompts and other prompts that still hold the placeholder.

    Args:
        plan: The plan.
        datasets: Its data sets.
        prompts: Setting -> prompt.
    """
    remedy = "put your subject's name there"
    for dataset in datasets:
        given = dataset.instance_prompt or ()
        prompts_of = [text for text in ([given] if isinstance(given, str) else given) if PLACEHOLDER in text]
        held = [
            sample.key for sample in _samples(plan, dataset) if any(PLACEHOLDER in text for text in sample.captions)
        ]
        if not held:
            continue
        if prompts_of:
            reason = f"instance_prompt still holds {PLACEHOLDER}"
            yield Finding("warning", "placeholder", dataset.id, reason, remedy, tuple(map(repr, prompts_of)))
        else:
            reason = f"{counted(len(held), 'caption')} still hold{'s' * (len(held) == 1)} {PLACEHOLDER}"
            yield Finding("warning", "placeholder", dataset.id, reason, remedy, tuple(held))
    for setting, prompt in prompts.items():
        if PLACEHOLDER in prompt:
            yield Finding("warning", "placeholder", setting, f"still holds {PLACEHOLDER}", remedy, (repr(prompt),))


def _samples(plan: Plan, dataset: DatasetConfig) -> list[Sample]:
    return [sample for bucket in plan.buckets if bucket.dataset == dataset.id for sample in bucket.samples]
