"""From files and command line to a checked configuration: every problem at once, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tuner.config import checks
from tuner.config.discovery import find_config
from tuner.config.keys import Given, all_settings, build_topics, collect
from tuner.config.launch_sources import Sources, launch_sources
from tuner.config.optimizers import OPTIMIZERS
from tuner.config.receipt import unread_settings
from tuner.config.references import Reading, read_references
from tuner.config.run import RunConfig
from tuner.config.settings import without_secrets
from tuner.errors import ConfigError, PluginError, Problem
from tuner.plugins import Family, import_family, installed_families, load_family
from tuner.types import FamilyFacts

__all__ = ["LoadedConfig", "changed_defaults", "find_config", "load_config"]


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
        secrets: Values that came from the environment, never to be written.
    """

    config: RunConfig
    family: Family
    given: Mapping[str, Given]
    warnings: tuple[str, ...]
    unread: Mapping[str, str]
    files: tuple[Path, ...]
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Read a configuration file and everything that it refers to.

    Args:
        path: The file, or None where all settings are `overrides`.
        overrides: Flat settings from the command line; they win over the file.

    Raises:
        ConfigError: Anything is wrong; all problems at once.
        PluginError: The family is installed but broken.
    """
    reading = Reading(path.parent if path else Path())
    sources = _sources(path, overrides or {}, reading)
    family = _family(sources, reading)
    if family is None:
        # Without a family its own settings are unknown, so only the core's can be judged.
        problems = [problem for problem in collect(sources, None)[1] if "did you mean" in (problem.remedy or "")]
        raise ConfigError([*reading.problems, *problems])
    facts = family.facts
    sources, foreign = _without_foreign(sources, facts.options)
    defaults = _family_defaults(family, sources)
    weaker, stronger = launch_sources(sources, reading)
    sources = [("family", defaults), ("optimizer", _optimizer_defaults(sources)), *weaker, *sources, *stronger]
    given, problems = collect(sources, facts.options)
    reading.problems += problems
    given, inert = _without_inert(given, defaults, facts.inert_settings)
    topics, problems = build_topics(given, facts.options)
    reading.problems += [*problems, *checks.conflicts(topics, given, family)]
    parts = read_references(topics, given, reading)
    reading.problems += reading.expansion.problems
    secrets = frozenset(reading.expansion.secrets)
    if reading.problems:
        raise ConfigError(_shown(problem, secrets) for problem in reading.problems)
    config = RunConfig(**topics, **parts)
    reading.warnings += checks.warnings(topics, facts)
    unread = {**foreign, **inert, **unread_settings(config, given, facts)}
    return LoadedConfig(config, family, given, tuple(reading.warnings), unread, tuple(reading.files), secrets)


def _shown(problem: Problem, secrets: frozenset[str]) -> Problem:
    return replace(problem, message=without_secrets(problem.message, secrets))


def _sources(path: Path | None, overrides: Mapping[str, Any], reading: Reading) -> Sources:
    values = reading.read(path) if path else {}
    if values is not None and not isinstance(values, dict):
        reading.problems.append(Problem(f"must be an object of settings, not {type(values).__name__}", str(path)))
    if not isinstance(values, dict):
        raise ConfigError(reading.problems)
    sources = [(str(path), values), ("command line", overrides)]
    expand = reading.expansion.expand
    return [
        (origin, {str(key): expand(value, origin, str(key).lstrip("-")) for key, value in settings.items()})
        for origin, settings in sources
    ]


def _family(sources: Sources, reading: Reading) -> Family | None:
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


def _without_foreign(sources: Sources, options: type[BaseModel]) -> tuple[Sources, dict[str, str]]:
    """Take out settings that another installed family has and this one has not; also return the reasons by key."""
    own = {key for _, key, _ in all_settings(options)}
    strange = {key.lstrip("-") for _, values in sources for key in values} - own
    owners: dict[str, str] = {}
    for entry in installed_families().values() if strange else ():
        try:
            facts = import_family(entry).facts
        except PluginError:
            continue  # `tuner families` says what is wrong with it
        owners.update(dict.fromkeys(strange & facts.options.model_fields.keys(), facts.title))
    kept: Sources = [
        (origin, {key: value for key, value in values.items() if key.lstrip("-") not in owners})
        for origin, values in sources
    ]
    return kept, {key: f"it is a setting of {title}" for key, title in sorted(owners.items())}


def _without_inert(
    given: dict[str, Given], defaults: Mapping[str, Any], reasons: Mapping[str, str]
) -> tuple[dict[str, Given], dict[str, str]]:
    """Put the family's defaults in place of values that mean nothing to it; also return the reasons by key.

    A value that equals the default asks for nothing, so it has no reason.
    """
    usual = {key: field.get_default(call_default_factory=True) for _, key, field in all_settings()} | dict(defaults)
    inert = {key: value.value for key, value in given.items() if key in reasons and value.origin != "family"}
    kept = {key: value for key, value in given.items() if key not in inert}
    asked = {key: reasons[key] for key, value in inert.items() if str(value).lower() != str(usual.get(key)).lower()}
    return {**kept, **{key: Given(defaults[key], "family") for key in inert if key in defaults}}, asked


def _family_defaults(family: Family, sources: Sources) -> dict[str, Any]:
    """Defaults that the family and the flavour change; only those that are settings."""
    facts = family.facts
    asked = {key.lstrip("-"): value for _, values in sources for key, value in values.items()}
    # Weights of one's own have no flavour, unless one is named too.
    implied = None if asked.get("pretrained_model_name_or_path") else facts.default_flavour
    known = {key for _, key, _ in all_settings(facts.options)}
    changed = changed_defaults(facts, str(asked.get("model_flavour") or implied))
    return {key: value for key, value in changed.items() if key in known}


def _optimizer_defaults(sources: Sources) -> dict[str, Any]:
    """Defaults that the optimizer changes, as one that finds the size of its steps itself does."""
    names = [value for _, values in sources for key, value in values.items() if key.lstrip("-") == "optimizer"]
    spec = OPTIMIZERS.get(str(names[-1]).strip()) if names else None
    return {"learning_rate": spec.learning_rate} if spec and spec.learning_rate else {}


def changed_defaults(facts: FamilyFacts, flavour: str) -> dict[str, Any]:
    """Return the defaults that a family and one of its flavours change; `flavour` may name none of them."""
    chosen = facts.flavours.get(flavour)
    return {
        "aspect_bucket_alignment": facts.pixel_alignment,
        **facts.setting_defaults,
        **(chosen.setting_defaults if chosen else {}),
    }
