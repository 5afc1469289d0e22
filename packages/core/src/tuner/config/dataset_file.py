"""Reading the data set file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.config.data import DataConfig
from tuner.config.datasets import DatasetConfig, MaskConfig, TextCacheConfig
from tuner.config.keys import describe_errors, unknown_key
from tuner.errors import Problem

Entry = DatasetConfig | MaskConfig | TextCacheConfig

_KINDS: dict[str, type[Entry]] = {"text_embeds": TextCacheConfig, "conditioning": MaskConfig}
"""dataset_type -> model of the entry; pictures to train on are the rest."""

_SPELLINGS = {"is_regularization_data": "is_regularisation_data"}

INHERITED = ("resolution", "resolution_type", "minimum_image_size", "caption_strategy", "instance_prompt")
"""Keys that a data set takes from the configuration unless it has them itself."""


@dataclass
class DatasetFile:
    """The valid entries of a data set file, and what is wrong with the others."""

    datasets: list[DatasetConfig] = field(default_factory=list)
    masks: list[MaskConfig] = field(default_factory=list)
    text_cache: TextCacheConfig | None = None
    problems: list[Problem] = field(default_factory=list)


def parse_dataset_file(content: Any, origin: str, defaults: DataConfig) -> DatasetFile:
    """Validate the content of a data set file.

    Args:
        content: Parsed JSON, TOML or YAML: a list of objects.
        origin: The file's name, for errors.
        defaults: Settings that data sets take over.
    """
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        problem = Problem(f"must be a list of objects, not {type(content).__name__}", origin)
        return DatasetFile(problems=[problem])
    result = DatasetFile()
    caches: list[TextCacheConfig] = []
    for number, raw in enumerate(content):
        entry = {str(key).lstrip("-"): value for key, value in raw.items()}
        entry = {_SPELLINGS.get(key, key): value for key, value in entry.items()}
        label = f"entry {number + 1} ({entry.get('id', 'no id')})"
        kind = _KINDS.get(str(entry.get("dataset_type")), DatasetConfig)
        parsed, problems = _parse_entry(entry, kind, origin, label, defaults)
        result.problems += problems
        if isinstance(parsed, TextCacheConfig) and not parsed.disabled:
            caches.append(parsed)
        elif isinstance(parsed, MaskConfig) and not parsed.disabled:
            result.masks.append(parsed)
        elif isinstance(parsed, DatasetConfig) and not parsed.disabled:
            result.datasets.append(parsed)
    result.text_cache = next((cache for cache in caches if cache.default), caches[0] if caches else None)
    result.problems += [*_across(result.datasets, caches, content, origin), *_masks(result, origin)]
    return result


def _parse_entry(
    entry: dict[str, Any], model: type[Entry], origin: str, label: str, defaults: DataConfig
) -> tuple[Entry | None, list[Problem]]:
    unknown = [key for key in entry if key not in model.model_fields]
    problems = [_in_entry(unknown_key(key, origin, list(model.model_fields)), label) for key in unknown]
    known: dict[str, Any] = {key: value for key, value in entry.items() if key not in unknown}
    if model is DatasetConfig:
        inherited = {key: getattr(defaults, key) for key in INHERITED}
        known = {**{key: value for key, value in inherited.items() if value is not None}, **known}
    try:
        return model.model_validate(known), problems
    except ValidationError as error:
        return None, problems + [_in_entry(problem, label) for problem in describe_errors(error, origin)]


def _masks(file: DatasetFile, origin: str) -> Iterator[Problem]:
    known = [mask.id for mask in file.masks]
    for dataset in file.datasets:
        if dataset.conditioning_data and dataset.conditioning_data not in known:
            listed = ", ".join(known) or "none"
            message = f"{dataset.conditioning_data!r} is no entry of dataset_type conditioning (there is: {listed})"
            yield Problem(message, origin, f"{dataset.id}: conditioning_data")
    for mask in file.masks:
        if mask.id not in [dataset.conditioning_data for dataset in file.datasets]:
            remedy = f"set conditioning_data to {mask.id!r} in the data set that it belongs to, or disable it"
            yield Problem("no data set names these masks", origin, mask.id, remedy)


def _in_entry(problem: Problem, label: str) -> Problem:
    key = f"{label}: {problem.key}" if problem.key else label
    return Problem(problem.message, problem.file, key, problem.remedy)


def _across(
    datasets: list[DatasetConfig], caches: list[TextCacheConfig], content: list[Mapping[str, Any]], origin: str
) -> Iterator[Problem]:
    ids = Counter(str(entry.get("id")) for entry in content if entry.get("id"))
    for name in sorted(name for name, count in ids.items() if count > 1):
        yield Problem(f"the id {name!r} is given to {ids[name]} entries", origin, "id", "give each entry its own id")
    defaults = [cache.id for cache in caches if cache.default]
    if len(defaults) > 1:
        yield Problem(f"{', '.join(defaults)} are all the default text_embeds entry", origin, "default", "keep one")
    folders = Counter(dataset.cache_dir_vae for dataset in datasets if dataset.cache_dir_vae)
    folders.update(cache.cache_dir for cache in caches if cache.cache_dir)
    for folder in sorted(folder for folder, count in folders.items() if count > 1):
        yield Problem(f"{folder} is the cache of {folders[folder]} entries", origin, "cache_dir_vae",
                      "give each entry a folder of its own, or name none")  # fmt: skip
    if not datasets and not any(entry.get("dataset_type", "image") == "image" for entry in content):
        yield Problem("holds no data set of pictures", origin, remedy="add an entry with an instance_data_dir")
    elif not datasets and all(
        entry.get("disabled") for entry in content if entry.get("dataset_type", "image") == "image"
    ):
        yield Problem("every data set of pictures is disabled", origin, "disabled")
    for entry in content:
        path = entry.get("instance_data_dir")
        # Looked at in the raw entry, so that a missing folder is named even where other keys are wrong as well.
        if isinstance(path, str) and entry.get("disabled") not in (True, "true") and not Path(path).is_dir():
            yield Problem(
                f"{path} is no folder",
                origin,
                f"{entry.get('id')}: instance_data_dir",
                f"create it, or start from another folder (paths are relative to {Path.cwd()})",
            )
