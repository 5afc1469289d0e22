"""Looking at every installed family: those that work, and those that do not, with reasons."""

from __future__ import annotations

from tuner.errors import PluginError
from tuner.plugins import Family, FamilyEntry, import_family, installed_families


def survey_families() -> tuple[list[tuple[Family, list[str]]], list[dict[str, str]]]:
    """Import every installed family: those that work, with their aliases, and those that do not, with reasons."""
    by_target: dict[str, list[FamilyEntry]] = {}
    for entry in installed_families().values():
        by_target.setdefault(entry.target, []).append(entry)
    working: list[tuple[Family, list[str]]] = []
    broken: list[dict[str, str]] = []
    for entries in by_target.values():
        try:
            family = import_family(entries[0])
        except PluginError as error:
            entry = entries[0]
            row = {"name": entry.name, "package": entry.package, "version": entry.version, "reason": str(error)}
            broken.append(row)
            continue
        working.append((family, [entry.name for entry in entries if entry.name != family.facts.name]))
    return sorted(working, key=lambda item: item[0].facts.name), broken
