"""The files that settings point to: data sets, adapter, prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.config.dataset_file import DatasetFile, parse_dataset_file
from tuner.config.deepspeed import deepspeed_problems
from tuner.config.keys import Given, describe_errors
from tuner.config.lycoris import LycorisConfig
from tuner.config.placeholders import Expansion
from tuner.config.prompts import LibraryPrompt, builtin_prompts, merge_libraries, parse_library
from tuner.config.reader import read_document
from tuner.config.storage import adapter_problems
from tuner.config.webhooks import read_webhooks
from tuner.errors import ConfigError, Problem


@dataclass
class Reading:
    """What is known so far while a configuration is read."""

    folder: Path
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    expansion: Expansion = field(default_factory=Expansion)

    def read(self, path: Path, names: Mapping[str, str] | None = None) -> Any:
        """Parse a file, keeping its warnings; None, with the problems noted, where that fails.

        Args:
            path: The file.
            names: Placeholders that its strings may hold, besides {env:NAME}; None to leave strings as they are.
        """
        try:
            document = read_document(path)
        except ConfigError as error:
            self.problems += error.problems
            return None
        self.files.append(path)
        self.warnings += document.warnings
        return document.values if names is None else self.expansion.expand(document.values, str(path), None, names)

    def find(self, path: Path, given: Given | None, key: str) -> Path | None:
        """Look for a file that a setting names: as it stands, beside the configuration, and in config/."""
        return self.find_named(path, given.origin if given else "configuration", key)

    def find_named(self, path: Path, origin: str, key: str) -> Path | None:
        """Look for a file that `key` in `origin` names, in the same places."""
        path = path.expanduser()
        tried = (
            [path]
            if path.is_absolute()
            else [path, self.folder / path, self.folder / path.name, Path("config") / path.name]
        )
        for candidate in tried:
            if is_file(candidate):
                return candidate
        places = ", ".join(dict.fromkeys(str(candidate) for candidate in tried))
        self.problems.append(Problem(f"no such file; looked for {places}", origin, key))
        return None


def is_file(path: Path) -> bool:
    """Whether a path, which may be any text that a user wrote, names a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, or one that no file can have
        return False


def read_references(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> dict[str, Any]:
    """Read the files that settings point to; the result holds fields of `RunConfig`."""
    parts: dict[str, Any] = {}
    if data := topics.get("data"):
        datasets = _read_datasets(topics, given, reading)
        parts["datasets"] = tuple(datasets.datasets)
        parts["eval_datasets"] = tuple(datasets.eval_datasets)
        parts["masks"] = tuple(datasets.masks)
        parts["text_cache"] = datasets.text_cache
        _check_regularisation(topics, datasets, data.data_backend_config, given, reading)
        _check_crops(topics, datasets, data.data_backend_config, reading)
        _check_pooling(topics, datasets, reading)
    model, adapter = topics.get("model"), topics.get("adapter")
    if model and adapter and model.model_type == "lora" and adapter.lora_type == "lycoris":
        parts["lycoris"] = _read_lycoris(topics, given, reading)
    if (memory := topics.get("memory")) and memory.deepspeed_config:
        _check_deepspeed(memory.deepspeed_config, topics, given, reading)
    if topics.get("validation"):
        parts |= _read_prompts(topics, given, reading)
    if (publishing := topics.get("publishing")) and publishing.webhook_config is not None:
        origin = given["webhook_config"].origin
        parts["webhooks"] = read_webhooks(publishing.webhook_config, origin, reading)
    return parts


def _read_datasets(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> DatasetFile:
    data, model = topics["data"], topics.get("model")
    path = reading.find(data.data_backend_config, given.get("data_backend_config"), "data_backend_config")
    if path is not None and path != data.data_backend_config:
        reading.warnings.append(f"data_backend_config {data.data_backend_config} is not there; read {path} instead")
    names = {"model_family": model.model_family, "output_dir": str(model.output_dir)} if model else {}
    content = reading.read(path, names) if path else None
    if content is None:
        return DatasetFile()
    result = parse_dataset_file(content, str(path), data, topics.get("caching"))
    reading.problems += result.problems
    return result


def _check_regularisation(
    topics: Mapping[str, Any], datasets: DatasetFile, file: Path, given: Mapping[str, Given], reading: Reading
) -> None:
    model = topics.get("model")
    if model is None or model.model_type != "full":
        return
    for dataset in datasets.datasets:
        if dataset.is_regularisation_data:
            reading.problems.append(
                Problem(
                    "model_type full changes the base model, so nothing is left to regularise with",
                    str(given["data_backend_config"].value) if "data_backend_config" in given else str(file),
                    f"{dataset.id}: is_regularisation_data",
                    "train with model_type lora, or set is_regularisation_data to false",
                )
            )


def _check_crops(topics: Mapping[str, Any], datasets: DatasetFile, file: Path, reading: Reading) -> None:
    launch = topics.get("launch")
    if launch is None or launch.num_processes == 1:
        return
    for dataset in datasets.datasets:
        if dataset.redraws_crops:
            reading.problems.append(
                Problem(
                    "processes that train together do not begin an epoch at the same moment, so none of them can "
                    "replace the latents that they share",
                    str(file),
                    f"{dataset.id}: vae_cache_clear_each_epoch",
                    "set it to false, or train with num_processes 1",
                )
            )


def _check_pooling(topics: Mapping[str, Any], datasets: DatasetFile, reading: Reading) -> None:
    evaluation = topics.get("evaluation")
    if evaluation and evaluation.eval_dataset_pooling and any(item.id == "pooled" for item in datasets.eval_datasets):
        message = "the loss over all evaluation data sets is reported as 'pooled', and a data set has that name"
        reading.problems.append(Problem(message, key="eval_dataset_pooling", remedy="give the data set another id"))


def _read_lycoris(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> LycorisConfig | None:
    found = reading.find(topics["adapter"].lycoris_config, given.get("lycoris_config"), "lycoris_config")
    content = reading.read(found) if found else None
    if found is None or content is None:
        return None
    if not isinstance(content, dict):
        reading.problems.append(Problem(f"must be an object, not {type(content).__name__}", str(found)))
        return None
    try:
        lycoris = LycorisConfig.model_validate(content)
    except ValidationError as error:
        reading.problems += describe_errors(error, str(found), LycorisConfig)
        return None
    reading.problems += adapter_problems(topics, lycoris, str(found))
    return lycoris


def _check_deepspeed(
    value: str | dict[str, Any], topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading
) -> None:
    """Check what DeepSpeed would be told, and refuse: without its engine the run would be another one."""
    key, content, origin = "deepspeed_config", value, given["deepspeed_config"].origin
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            content = json.loads(value)
        except json.JSONDecodeError as error:
            reading.problems.append(Problem(f"is no JSON: {error}", origin, key))
    elif isinstance(value, str):
        found = reading.find(Path(value), given[key], key)
        content = (reading.read(found) or {}) if found else {}
        origin = str(found) if found else origin
    if not isinstance(content, str):
        reading.problems += deepspeed_problems(content, origin, topics)
    reading.problems.append(
        Problem(
            "this version has no DeepSpeed engine, and training without it would be another run",
            given[key].origin,
            key,
            "leave it out; over several processes fsdp_enable shares a full fine-tune out, as stage 3 does; on one "
            "device gradient_checkpointing and optimizer_release_gradients spare memory",
        )
    )


def _read_prompts(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> dict[str, Any]:
    """Read the libraries of prompts that are asked for: the built-in one first."""
    validation = topics["validation"]
    named = validation.validation_prompt_library
    libraries = [builtin_prompts()] if named is True else []
    if isinstance(named, str):
        libraries.append(_read_library("validation_prompt_library", Path(named), given, reading))
    if validation.user_prompt_library is not None:
        libraries.append(_read_library("user_prompt_library", validation.user_prompt_library, given, reading))
    entries = merge_libraries(libraries)
    strengths = {entry.nickname: entry.adapter_strength for entry in entries if entry.adapter_strength is not None}
    model = topics.get("model")
    if strengths and model and model.model_type == "full":
        reading.warnings.append(
            f"adapter_strength of {len(strengths)} prompts has no effect: model_type is full, so there is no adapter"
        )
    return {"prompts": {entry.nickname: entry.prompt for entry in entries}, "prompt_strengths": strengths}


def _read_library(key: str, path: Path, given: Mapping[str, Given], reading: Reading) -> list[LibraryPrompt]:
    found = reading.find(path, given.get(key), key)
    content = reading.read(found) if found else None
    if found is None or content is None:
        return []
    try:
        library = parse_library(content)
    except ValueError as error:
        reading.problems.append(Problem(str(error), str(found), key))
        return []
    left = sorted(entry.nickname for entry in library if "<token>" in entry.nickname + entry.prompt)
    if left:
        reading.warnings.append(
            f"{found}: {len(left)} prompts still hold <token> (first: {left[0]!r}); put your subject's name there"
        )
    return library
