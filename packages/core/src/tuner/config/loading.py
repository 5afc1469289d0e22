"""From files and command line to a checked configuration: every problem at once, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.config import checks
from tuner.config.dataset_file import DatasetFile, parse_dataset_file
from tuner.config.keys import Given, all_settings, build_topics, collect, describe_errors
from tuner.config.lycoris import LycorisConfig
from tuner.config.reader import read_document
from tuner.config.receipt import unread_settings
from tuner.config.run import RunConfig
from tuner.errors import ConfigError, PluginError, Problem
from tuner.plugins import Family, load_family

CONFIG_NAMES = ("config.json", "config.toml", "config.yaml")


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration that passed every check.

    Attributes:
        config: The configuration.
        family: The family it asks for.
        given: What was given explicitly, with its origin.
        warnings: What people should know, one line each.
        unread: Settings that were given but that nothing will read -> why.
        files: The files that were read.
    """

    config: RunConfig
    family: Family
    given: Mapping[str, Given]
    warnings: tuple[str, ...]
    unread: Mapping[str, str]
    files: tuple[Path, ...]


@dataclass
class _Reading:
    """What is known so far while a configuration is read."""

    folder: Path
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def read(self, path: Path) -> Any:
        """Parse a file, keeping its warnings; None, with the problems noted, where that fails."""
        try:
            document = read_document(path)
        except ConfigError as error:
            self.problems += error.problems
            return None
        self.files.append(path)
        self.warnings += document.warnings
        return document.values

    def find(self, path: Path, given: Given | None, key: str) -> Path | None:
        """Look for a file that a setting names: as it stands, beside the configuration, and in config/."""
        path = path.expanduser()
        tried = (
            [path]
            if path.is_absolute()
            else [path, self.folder / path, self.folder / path.name, Path("config") / path.name]
        )
        for candidate in tried:
            if candidate.is_file():
                return candidate
        places = ", ".join(dict.fromkeys(str(candidate) for candidate in tried))
        self.problems.append(
            Problem(f"no such file; looked for {places}", given.origin if given else "configuration", key)
        )
        return None


def find_config(path: str | os.PathLike[str] | None) -> Path:
    """Return the configuration file to read.

    Args:
        path: A file, or a folder that holds one; None to search the working directory, then config/.

    Raises:
        ConfigError: There is none; the paths that were tried are listed.
    """
    if path is not None and not Path(path).is_dir():
        if not Path(path).is_file():
            raise ConfigError([Problem("no such file", file=str(path))])
        return Path(path)
    folders = [Path(path)] if path is not None else [Path(), Path("config")]
    candidates = [folder / name for folder in folders for name in CONFIG_NAMES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ", ".join(map(str, candidates))
    raise ConfigError([Problem(f"no configuration found; looked for {tried}", remedy="name one: tuner train FILE")])


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Read a configuration file and everything that it refers to.

    Args:
        path: The file.
        overrides: Flat settings from the command line; they win over the file.

    Raises:
        ConfigError: Anything is wrong; all problems at once.
        PluginError: The family is installed but broken.
    """
    reading = _Reading(path.parent)
    values = reading.read(path)
    if values is not None and not isinstance(values, dict):
        reading.problems.append(Problem(f"must be an object of settings, not {type(values).__name__}", str(path)))
    if not isinstance(values, dict):
        raise ConfigError(reading.problems)
    sources: list[tuple[str, Mapping[str, Any]]] = [(str(path), values), ("command line", overrides or {})]
    family = _family(sources, reading)
    if family is None:
        # Without a family its own settings are unknown, so only the core's can be judged.
        problems = [problem for problem in collect(sources, None)[1] if "did you mean" in (problem.remedy or "")]
        raise ConfigError([*reading.problems, *problems])
    facts = family.facts
    defaults = _family_defaults(family, sources)
    given, problems = collect([("family", defaults), *sources], facts.options)
    reading.problems += problems
    given, inert = _without_inert(given, defaults, facts.inert_settings)
    topics, problems = build_topics(given, facts.options)
    reading.problems += problems + checks.conflicts(topics, given, facts)
    parts = _referenced(topics, given, reading)
    if reading.problems:
        raise ConfigError(reading.problems)
    config = RunConfig(**topics, **parts)
    reading.warnings += checks.warnings(topics, facts)
    unread = {**inert, **unread_settings(config, given, facts)}
    return LoadedConfig(config, family, given, tuple(reading.warnings), unread, tuple(reading.files))


def _family(sources: list[tuple[str, Mapping[str, Any]]], reading: _Reading) -> Family | None:
    named = [
        (origin, value)
        for origin, values in sources
        for key, value in values.items()
        if key.lstrip("-") == "model_family"
    ]
    if not named:
        reading.problems.append(
            Problem("is required", sources[0][0], "model_family", "`tuner families` lists what is installed")
        )
        return None
    origin, value = named[-1]
    try:
        return load_family(str(value).strip())
    except PluginError as error:
        reading.problems.append(Problem(str(error), origin, "model_family"))
        return None


def _without_inert(
    given: dict[str, Given], defaults: Mapping[str, Any], reasons: Mapping[str, str]
) -> tuple[dict[str, Given], dict[str, str]]:
    """Put the family's defaults in place of values that mean nothing to it; also return the reasons by key."""
    inert = {key: reasons[key] for key, value in given.items() if key in reasons and value.origin != "family"}
    kept = {key: value for key, value in given.items() if key not in inert}
    return {**kept, **{key: Given(defaults[key], "family") for key in inert if key in defaults}}, inert


def _family_defaults(family: Family, sources: list[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Defaults that the family and the flavour change; only those that are settings."""
    facts = family.facts
    asked = {key.lstrip("-"): value for _, values in sources for key, value in values.items()}
    # Weights of one's own have no flavour, unless one is named too.
    implied = None if asked.get("pretrained_model_name_or_path") else facts.default_flavour
    flavour = facts.flavours.get(str(asked.get("model_flavour") or implied))
    known = {key for _, key, _ in all_settings(facts.options)}
    defaults: dict[str, Any] = {"aspect_bucket_alignment": facts.pixel_alignment, **facts.setting_defaults}
    defaults.update(flavour.setting_defaults if flavour else {})
    return {key: value for key, value in defaults.items() if key in known}


def _referenced(topics: Mapping[str, Any], given: Mapping[str, Given], reading: _Reading) -> dict[str, Any]:
    """Read the files that settings point to."""
    parts: dict[str, Any] = {}
    if data := topics.get("data"):
        datasets = _read_datasets(data, given, reading)
        parts["datasets"] = tuple(datasets.datasets)
        parts["masks"] = tuple(datasets.masks)
        parts["text_cache"] = datasets.text_cache
    model, adapter = topics.get("model"), topics.get("adapter")
    if model and adapter and model.model_type == "lora" and adapter.lora_type == "lycoris":
        parts["lycoris"] = _read_lycoris(adapter.lycoris_config, given, reading)
    for dataset in parts.get("datasets", ()):
        if model and model.model_type == "full" and dataset.is_regularisation_data:
            reading.problems.append(_no_base_model(dataset.id, given["data_backend_config"].origin))
    validation = topics.get("validation")
    if validation and validation.user_prompt_library:
        parts["prompts"] = _read_prompts(validation.user_prompt_library, given, reading)
    return parts


def _no_base_model(dataset: str, origin: str) -> Problem:
    return Problem(
        "model_type full changes the base model, so nothing is left to regularise with",
        origin,
        f"{dataset}: is_regularisation_data",
        "train with model_type lora, or set is_regularisation_data to false",
    )


def _read_datasets(data: Any, given: Mapping[str, Given], reading: _Reading) -> DatasetFile:
    path = reading.find(data.data_backend_config, given.get("data_backend_config"), "data_backend_config")
    content = reading.read(path) if path else None
    if content is None:
        return DatasetFile()
    result = parse_dataset_file(content, str(path), data)
    reading.problems += result.problems
    return result


def _read_lycoris(path: Path, given: Mapping[str, Given], reading: _Reading) -> LycorisConfig | None:
    found = reading.find(path, given.get("lycoris_config"), "lycoris_config")
    content = reading.read(found) if found else None
    if content is None:
        return None
    try:
        return LycorisConfig.model_validate(content)
    except ValidationError as error:
        reading.problems += describe_errors(error, str(found))
        return None


def _read_prompts(path: Path, given: Mapping[str, Given], reading: _Reading) -> dict[str, str]:
    found = reading.find(path, given.get("user_prompt_library"), "user_prompt_library")
    content = reading.read(found) if found else None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        reading.problems.append(Problem("must be an object of nickname -> prompt", str(found), "user_prompt_library"))
        return {}
    left = sorted(name for name, prompt in content.items() if "<token>" in name + prompt)
    if left:
        reading.warnings.append(
            f"{found}: {len(left)} prompts still hold <token> (first: {left[0]!r}); put your subject's name there"
        )
    return content
