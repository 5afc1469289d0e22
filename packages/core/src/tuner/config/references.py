"""The files that settings point to: data sets, adapter, prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.config.dataset_file import DatasetFile, parse_dataset_file
from tuner.config.deepspeed import deepspeed_problems, zero_stage
from tuner.config.evaluation import EvaluationConfig
from tuner.config.keys import Given, describe_errors
from tuner.config.launch import LaunchConfig
from tuner.config.lycoris import LycorisConfig
from tuner.config.model import ModelConfig
from tuner.config.partial import UnknownSettingError, as_far_as_known
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
    """Read the files that settings point to; the result holds fields of `RunConfig`.

    What depends on a refused setting is left out.
    """
    parts: dict[str, Any] = {}
    for read in (_read_data, _read_lycoris, _check_deepspeed, _read_prompts, _read_webhooks):
        with suppress(UnknownSettingError):
            parts |= read(topics, given, reading)
    return parts


def _read_data(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> dict[str, Any]:
    datasets = _read_datasets(topics, given, reading)
    origin = str(given["data_backend_config"].value)
    reading.problems += [
        *_regularisation(topics["model"], datasets, origin),
        *_crops(topics["launch"], datasets, origin),
        *_pooling(topics["evaluation"], datasets),
    ]
    return {
        "datasets": tuple(datasets.datasets),
        "eval_datasets": tuple(datasets.eval_datasets),
        "masks": tuple(datasets.masks),
        "text_cache": datasets.text_cache,
    }


def _read_webhooks(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> dict[str, Any]:
    value = topics["publishing"].webhook_config
    if value is None:
        return {}
    return {"webhooks": read_webhooks(value, given["webhook_config"].origin, reading)}


def _read_datasets(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> DatasetFile:
    data, model = topics["data"], topics["model"]
    path = reading.find(data.data_backend_config, given.get("data_backend_config"), "data_backend_config")
    if path is not None and path != data.data_backend_config:
        reading.warnings.append(f"data_backend_config {data.data_backend_config} is not there; read {path} instead")
    names = {"model_family": model.model_family, "output_dir": str(model.output_dir)}
    content = reading.read(path, names) if path else None
    if content is None:
        return DatasetFile()
    result = parse_dataset_file(content, str(path), data, topics["caching"])
    reading.problems += result.problems
    return result


@as_far_as_known
def _regularisation(model: ModelConfig, datasets: DatasetFile, origin: str) -> Iterator[Problem]:
    for dataset in datasets.datasets:
        if dataset.is_regularisation_data and model.model_type == "full":
            yield Problem(
                "model_type full changes the base model, so nothing is left to regularise with",
                origin,
                f"{dataset.id}: is_regularisation_data",
                "train with model_type lora, or set is_regularisation_data to false",
            )


@as_far_as_known
def _crops(launch: LaunchConfig, datasets: DatasetFile, origin: str) -> Iterator[Problem]:
    for dataset in datasets.datasets:
        if dataset.redraws_crops and launch.num_processes > 1:
            yield Problem(
                "processes that train together do not begin an epoch at the same moment, so none of them can "
                "replace the latents that they share",
                origin,
                f"{dataset.id}: vae_cache_clear_each_epoch",
                "set it to false, or train with num_processes 1",
            )


@as_far_as_known
def _pooling(evaluation: EvaluationConfig, datasets: DatasetFile) -> Iterator[Problem]:
    if evaluation.eval_dataset_pooling and any(item.id == "pooled" for item in datasets.eval_datasets):
        message = "the loss over all evaluation data sets is reported as 'pooled', and a data set has that name"
        yield Problem(message, key="eval_dataset_pooling", remedy="give the data set another id")


def _read_lycoris(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> dict[str, Any]:
    adapter = topics["adapter"]
    if topics["model"].model_type != "lora" or adapter.lora_type != "lycoris":
        return {}
    found = reading.find(adapter.lycoris_config, given.get("lycoris_config"), "lycoris_config")
    content = reading.read(found) if found else None
    if found is None or content is None:
        return {}
    if not isinstance(content, dict):
        reading.problems.append(Problem(f"must be an object, not {type(content).__name__}", str(found)))
        return {}
    try:
        lycoris = LycorisConfig.model_validate(content)
    except ValidationError as error:
        reading.problems += describe_errors(error, str(found), LycorisConfig)
        return {}
    reading.problems += adapter_problems(topics, lycoris, str(found))
    return {"lycoris": lycoris}


def _check_deepspeed(topics: Mapping[str, Any], given: Mapping[str, Given], reading: Reading) -> dict[str, Any]:
    """Check what DeepSpeed would be told, and return the stage of ZeRO that it asks for."""
    value = topics["memory"].deepspeed_config
    if not value:
        return {}
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
    if isinstance(content, str):
        return {}
    reading.problems += deepspeed_problems(content, origin, topics)
    stage = zero_stage(content)
    if stage:
        reading.warnings.append(f"{key}: PyTorch's FSDP2 does what stage {stage} of ZeRO does; DeepSpeed is not used")
    return {"zero_stage": stage}


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
    if strengths and topics["model"].model_type == "full":
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
    if not library:
        reading.warnings.append(f"{found}: holds no prompt")
    left = sorted(entry.nickname for entry in library if "<token>" in entry.nickname + entry.prompt)
    if left:
        reading.warnings.append(
            f"{found}: {len(left)} {'prompts still hold' if len(left) > 1 else 'prompt still holds'} <token> "
            f"(first: {left[0]!r}); put your subject's name there"
        )
    return library
