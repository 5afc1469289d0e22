"""Finding model families and extensions among the installed packages, and putting one run's plugins together.

Listing reads entry-point metadata alone. A plugin that cannot be imported or breaks the contract is reported
with its reason and touches nobody else.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

from tuner.errors import PluginError, TunerError
from tuner.hookspecs import PROJECT, ExtensionSpec, FamilySpec
from tuner.types import FamilyFacts

if TYPE_CHECKING:
    from tuner.config import RunConfig

logger = logging.getLogger(__name__)

FAMILY_GROUP = "tuner.families"
EXTENSION_GROUP = "tuner.extensions"


@dataclass(frozen=True)
class FamilyEntry:
    """An installed family as its package's metadata names it; nothing is imported yet.

    Attributes:
        name: Entry-point name.
        target: Import path of the plugin.
        package: Distribution that ships it.
        version: Version of the distribution.
    """

    name: str
    target: str
    package: str
    version: str


@dataclass(frozen=True)
class Family:
    """A family whose plugin was imported and follows the contract."""

    entry: FamilyEntry
    plugin: object
    facts: FamilyFacts


def installed_families() -> dict[str, FamilyEntry]:
    """List the installed families, aliases included, by entry-point name, without importing any."""
    entries = importlib.metadata.entry_points(group=FAMILY_GROUP)
    found: dict[str, FamilyEntry] = {}
    for entry in sorted(entries, key=lambda item: item.name):
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")
        found[entry.name.lower()] = FamilyEntry(entry.name.lower(), entry.value, package, version)
    return found


def load_family(name: str) -> Family:
    """Import a family by entry-point name or alias (any case), or by the dotted path of its plugin module.

    Raises:
        PluginError: The family is not installed, cannot be imported, implements a hook that does not exist,
            lacks one that must, or describes itself wrongly.
    """
    families = installed_families()
    entry = families.get(name.lower())
    if entry is None and "." in name:
        entry = FamilyEntry(name, name, package="(not installed)", version="0")
    if entry is None:
        close = difflib.get_close_matches(name.lower(), families, n=1)
        hint = f"did you mean {close[0]}?" if close else f"pip install tuner-model-{name.lower()}"
        listed = ", ".join(sorted(families)) or "none"
        raise PluginError(f"model family {name!r} is not installed (installed: {listed})\n    -> {hint}")
    return import_family(entry)


def import_family(entry: FamilyEntry) -> Family:
    """Import a family that was found, and check it against the contract.

    Raises:
        PluginError: As `load_family`.
    """
    plugin = _import_plugin(entry)
    return Family(entry, plugin, _facts_of(entry, plugin))


def create_manager(family: Family, extensions: Iterable[object] = ()) -> pluggy.PluginManager:
    """Build the one plugin manager of a run, with its family and extensions registered and checked."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(FamilySpec)
    manager.add_hookspecs(ExtensionSpec)
    for plugin in (family.plugin, *extensions):
        _register(manager, plugin, _label(plugin))
    return manager


def create_extensions(config: RunConfig) -> list[object]:
    """Ask every installed extension's factory whether it takes part in this run.

    A broken extension is reported and left out; the run does not depend on it.

    Raises:
        TunerError: A factory says that what the configuration asks of it cannot be done.
    """
    extensions: list[object] = []
    for entry in sorted(importlib.metadata.entry_points(group=EXTENSION_GROUP), key=lambda item: item.name):
        try:
            extension = entry.load()(config)
            if extension is not None:
                _check_extension(extension)
                extensions.append(extension)
        except PluginError as error:
            logger.warning("%s; the run goes on without it", error)
        except TunerError:
            raise
        except Exception as error:  # a broken extension may raise anything
            package = entry.dist.name if entry.dist else "unknown"
            broken = f"extension {entry.name!r} of package {package} ({entry.value}) failed: {_reason(error)}"
            logger.warning("%s; the run goes on without it", broken)
    return extensions


def _check_extension(extension: object) -> None:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(FamilySpec)
    manager.add_hookspecs(ExtensionSpec)
    _register(manager, extension, _label(extension))


def _import_plugin(entry: FamilyEntry) -> object:
    module_name, _, attribute = entry.target.partition(":")
    try:
        plugin: Any = importlib.import_module(module_name)
        for part in filter(None, attribute.split(".")):
            plugin = getattr(plugin, part)
    except Exception as error:  # a broken plugin may raise anything at import
        raise PluginError(
            f"model family {entry.name!r} of package {entry.package} {entry.version} cannot be imported "
            f"({entry.target}): {_reason(error)}"
        ) from error
    return plugin() if inspect.isclass(plugin) else plugin


def _facts_of(entry: FamilyEntry, plugin: object) -> FamilyFacts:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(FamilySpec)
    _register(manager, plugin, entry.target)
    missing = [name for name, spec in _family_hooks() if not getattr(manager.hook, name).get_hookimpls()]
    if missing:
        raise PluginError(f"{entry.target} lacks the hooks {', '.join(missing)}; every family implements all of them")
    try:
        facts = manager.hook.describe_family()
    except Exception as error:
        raise PluginError(f"{entry.target}: describe_family failed: {_reason(error)}") from error
    if not isinstance(facts, FamilyFacts):
        raise PluginError(f"{entry.target}: describe_family returned {type(facts).__name__}, not FamilyFacts")
    if facts.default_flavour not in facts.flavours:
        raise PluginError(
            f"{entry.target}: default_flavour {facts.default_flavour!r} is not among its flavours "
            f"({', '.join(facts.flavours)})"
        )
    return facts


def _register(manager: pluggy.PluginManager, plugin: object, label: str) -> None:
    try:
        manager.register(plugin, name=label)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{label} does not follow the contract: {error}{_nearest_hook(error)}") from error


def _nearest_hook(error: pluggy.PluginValidationError) -> str:
    known = [name for spec in (FamilySpec, ExtensionSpec) for name, _ in inspect.getmembers(spec, inspect.isfunction)]
    words = str(error).replace("'", " ").split()
    for word in words:
        close = difflib.get_close_matches(word, known, n=1, cutoff=0.8)
        if close and word not in known:
            return f"\n    -> did you mean {close[0]}?"
    return ""


def _family_hooks() -> list[tuple[str, Any]]:
    return inspect.getmembers(FamilySpec, inspect.isfunction)


def _label(plugin: object) -> str:
    name = getattr(plugin, "__name__", None) or f"{type(plugin).__module__}.{type(plugin).__qualname__}"
    return str(name)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
