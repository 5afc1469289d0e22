"""Reading the data set file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.config.caching import CachingConfig
from tuner.config.data import DataConfig
from tuner.config.datasets import DatasetConfig, MaskConfig, TextCacheConfig
from tuner.config.keys import describe_errors, unknown_key
from tuner.config.partial import UnknownSettingError
from tuner.config.settings import field_extra
from tuner.errors import Problem

Entry = DatasetConfig | MaskConfig | TextCacheConfig

_KINDS: dict[str, type[Entry]] = {"text_embeds": TextCacheConfig, "conditioning": MaskConfig}
"""dataset_type -> model of the entry; pictures to train on are the rest."""

INHERITED = (
    "resolution",
    "resolution_type",
    "minimum_image_size",
    "caption_strategy",
    "instance_prompt",
    "skip_file_discovery",
    "vae_cache_ondemand",
    "vae_cache_disable",
)
"""Keys that a data set takes from the configuration unless it has them itself."""

_REFUSED = object()
"""Stands for such a key where the configuration's value was refused: an entry that takes it over cannot be judged."""


@dataclass
class DatasetFile:
    """The valid entries of a data set file, and what is wrong with the others."""

    datasets: list[DatasetConfig] = field(default_factory=list)
    eval_datasets: list[DatasetConfig] = field(default_factory=list)
    masks: list[MaskConfig] = field(default_factory=list)
    text_cache: TextCacheConfig | None = None
    problems: list[Problem] = field(default_factory=list)


def parse_dataset_file(
    content: Any, origin: str, defaults: DataConfig, caching: CachingConfig | None = None
) -> DatasetFile:
    """Validate the content of a data set file.

    Args:
        content: Parsed JSON, TOML or YAML: a list of objects.
        origin: The file's name, for errors.
        defaults: Settings that data sets take over.
        caching: Settings of the caches that data sets take over.
    """
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        problem = Problem(f"must be a list of objects, not {_kind_of(content)}", origin)
        return DatasetFile(problems=[problem])
    result = DatasetFile()
    caches: list[TextCacheConfig] = []
    inherited = {key: _inherited(key, defaults, caching) for key in INHERITED}
    for number, raw in enumerate(content):
        label = f"entry {number + 1} ({raw.get('id', raw.get('--id', 'no id'))})"
        parsed, problems = _parse_entry(raw, origin, label, inherited)
        result.problems += problems
        if parsed is None or parsed.disabled:
            continue
        if isinstance(parsed, TextCacheConfig):
            caches.append(parsed)
        elif isinstance(parsed, MaskConfig):
            result.masks.append(parsed)
        else:
            (result.eval_datasets if parsed.dataset_type == "eval" else result.datasets).append(parsed)
    result.text_cache = next((cache for cache in caches if cache.default), caches[0] if caches else None)
    result.problems += [*_across(result, caches, content, origin), *_masks(result, origin)]
    return result


def _inherited(key: str, *topics: DataConfig | CachingConfig | None) -> Any:
    try:
        return next((getattr(topic, key) for topic in topics if topic and key in type(topic).model_fields), None)
    except UnknownSettingError:
        return _REFUSED


def _kind_of(content: Any) -> str:
    if isinstance(content, list):
        odd = next(entry for entry in content if not isinstance(entry, dict))
        return f"one with {type(odd).__name__} entries"
    return type(content).__name__


def _parse_entry(
    raw: Mapping[str, Any], origin: str, label: str, inherited: Mapping[str, Any]
) -> tuple[Entry | None, list[Problem]]:
    kind = str(raw.get("dataset_type", raw.get("--dataset_type")))
    model = _KINDS.get(kind, DatasetConfig)
    entry, problems = _canonical(raw, model, origin, label)
    if model is DatasetConfig:
        entry = {**{key: value for key, value in inherited.items() if value is not None}, **entry}
        if _REFUSED in entry.values():
            return None, problems
    try:
        return model.model_validate(entry), problems
    except ValidationError as error:
        return None, problems + [_in_entry(problem, label) for problem in describe_errors(error, origin, model)]


def _canonical(
    raw: Mapping[str, Any], model: type[Entry], origin: str, label: str
) -> tuple[dict[str, Any], list[Problem]]:
    """Bring an entry's keys to their own spelling; the entry's own name takes the place of {id} in its texts."""
    names = {name: key for key, info in model.model_fields.items() for name in (key, *field_extra(info, "aliases", []))}
    entry: dict[str, Any] = {}
    problems: list[Problem] = []
    for spelling, value in raw.items():
        plain = str(spelling).lstrip("-")
        key = names.get(plain)
        if key is None:
            problems.append(_in_entry(unknown_key(plain, origin, names), label))
        elif key in entry and entry[key] != value:
            twice = Problem(f"given twice, as {entry[key]!r} and {value!r}", origin, key, "keep one of them")
            problems.append(_in_entry(twice, label))
        else:
            entry[key] = value
    identity = entry.get("id")
    if isinstance(identity, str):
        entry = {key: value if key == "id" else _with_id(value, identity) for key, value in entry.items()}
    return entry, problems


def _with_id(value: Any, identity: str) -> Any:
    if isinstance(value, str):
        return value.replace("{id}", identity)
    return [_with_id(item, identity) for item in value] if isinstance(value, list) else value


def _masks(file: DatasetFile, origin: str) -> Iterator[Problem]:
    known = [mask.id for mask in file.masks]
    datasets = [*file.datasets, *file.eval_datasets]
    for dataset in datasets:
        if dataset.conditioning_data and dataset.conditioning_data not in known:
            listed = ", ".join(known) or "none"
            message = f"{dataset.conditioning_data!r} is no entry of dataset_type conditioning (there is: {listed})"
            yield Problem(message, origin, f"{dataset.id}: conditioning_data")
    for mask in file.masks:
        if mask.id not in [dataset.conditioning_data for dataset in datasets]:
            remedy = f"set conditioning_data to {mask.id!r} in the data set that it belongs to, or disable it"
            yield Problem("no data set names these masks", origin, mask.id, remedy)


def _in_entry(problem: Problem, label: str) -> Problem:
    key = f"{label}: {problem.key}" if problem.key else label
    return Problem(problem.message, problem.file, key, problem.remedy)


def _across(
    file: DatasetFile, caches: list[TextCacheConfig], content: list[Mapping[str, Any]], origin: str
) -> Iterator[Problem]:
    ids = Counter(str(entry.get("id")) for entry in content if entry.get("id"))
    for name in sorted(name for name, count in ids.items() if count > 1):
        yield Problem(f"the id {name!r} is given to {ids[name]} entries", origin, "id", "give each entry its own id")
    defaults = [cache.id for cache in caches if cache.default]
    if len(defaults) > 1:
        yield Problem(f"{', '.join(defaults)} are all the default text_embeds entry", origin, "default", "keep one")
    folders = Counter(entry.cache_dir_vae for entry in (*file.datasets, *file.eval_datasets) if entry.cache_dir_vae)
    folders.update(cache.cache_dir for cache in caches if cache.cache_dir)
    for folder in sorted(folder for folder, count in folders.items() if count > 1):
        yield Problem(f"{folder} is the cache of {folders[folder]} entries", origin, "cache_dir_vae",
                      "give each entry a folder of its own, or name none")  # fmt: skip
    pictures = [entry for entry in content if entry.get("dataset_type", "image") == "image"]
    if not pictures:
        yield Problem("holds no data set of pictures", origin, remedy="add an entry with an instance_data_dir")
    elif not file.datasets and all(entry.get("disabled", entry.get("disable")) for entry in pictures):
        yield Problem("every data set of pictures is disabled", origin, "disabled")
    if file.datasets and not any(entry.probability for entry in file.datasets):
        yield Problem("the probability of every data set is 0", origin, "probability", "give one of them more than 0")
    yield from _missing_folders(content, origin)


def _missing_folders(content: list[Mapping[str, Any]], origin: str) -> Iterator[Problem]:
    """Look at raw entries, so that a missing folder is named even where other keys are wrong as well."""
    for entry in content:
        path = entry.get("instance_data_dir", entry.get("--instance_data_dir"))
        unused = entry.get("disabled", entry.get("disable")) in (True, "true") or entry.get("type", "local") != "local"
        if isinstance(path, str) and path.strip() and not unused and not is_folder(path):
            yield Problem(
                f"{path} is no folder",
                origin,
                f"{entry.get('id')}: instance_data_dir",
                f"create it, or start from another folder (paths are relative to {Path.cwd()})",
            )


def is_folder(path: str) -> bool:
    """Whether any text that a user wrote names a folder."""
    try:
        return Path(path).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # too long a name, one that no folder can have, or nobody's home
        return False
