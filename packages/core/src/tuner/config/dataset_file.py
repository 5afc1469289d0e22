"""Reading the data set file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.config.data import DataConfig
from tuner.config.datasets import DatasetConfig, TextCacheConfig
from tuner.config.keys import describe_errors, unknown_key
from tuner.errors import Problem

INHERITED = ("resolution", "resolution_type", "minimum_image_size", "caption_strategy", "instance_prompt")
"""Keys that a data set takes from the configuration unless it has them itself."""


@dataclass
class DatasetFile:
    """The valid entries of a data set file, and what is wrong with the others."""

    datasets: list[DatasetConfig]
    text_cache: TextCacheConfig | None
    problems: list[Problem]


def parse_dataset_file(content: Any, origin: str, defaults: DataConfig) -> DatasetFile:
    """Validate the content of a data set file.

    Args:
        content: Parsed JSON, TOML or YAML: a list of objects.
        origin: The file's name, for errors.
        defaults: Settings that data sets take over.
    """
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        problem = Problem(f"must be a list of objects, not {type(content).__name__}", origin)
        return DatasetFile([], None, [problem])
    result = DatasetFile([], None, [])
    caches: list[TextCacheConfig] = []
    for number, raw in enumerate(content):
        entry = {str(key).lstrip("-"): value for key, value in raw.items()}
        label = f"entry {number + 1} ({entry.get('id', 'no id')})"
        is_text = entry.get("dataset_type") == "text_embeds"
        parsed, problems = _parse_entry(entry, TextCacheConfig if is_text else DatasetConfig, origin, label, defaults)
        result.problems += problems
        if isinstance(parsed, TextCacheConfig) and not parsed.disabled:
            caches.append(parsed)
        elif isinstance(parsed, DatasetConfig) and not parsed.disabled:
            result.datasets.append(parsed)
    result.text_cache = next((cache for cache in caches if cache.default), caches[0] if caches else None)
    result.problems += [*_across(result.datasets, caches, content, origin)]
    return result


def _parse_entry(
    entry: dict[str, Any],
    model: type[DatasetConfig] | type[TextCacheConfig],
    origin: str,
    label: str,
    defaults: DataConfig,
) -> tuple[DatasetConfig | TextCacheConfig | None, list[Problem]]:
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
    for dataset in datasets:
        if not dataset.instance_data_dir.is_dir():
            yield Problem(
                f"{dataset.instance_data_dir} is no folder", origin, f"{dataset.id}: instance_data_dir",
                f"create it, or start from another folder (paths are relative to {Path.cwd()})",
            )  # fmt: skip
