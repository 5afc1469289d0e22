"""Commands that read no configuration to run: families, export, explain, configure, twin, new-family, demo, schema."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tuner.cli.survey import survey_families
from tuner.errors import TunerError
from tuner.plugins import Family, load_family


def families(options: argparse.Namespace) -> int:
    """List installed families; broken ones with their reason."""
    working, broken = survey_families()
    if options.json:
        print(json.dumps({"families": [_as_json(*item) for item in working], "broken": broken}, indent=2))
        return 0
    if not working and not broken:
        print("no model family is installed; for example: pip install tuner-model-NAME")
    for family, aliases in working:
        facts = family.facts
        also = f" (also: {', '.join(aliases)})" if aliases else ""
        print(f"{facts.name}{also}: {facts.title}, {family.entry.package} {family.entry.version}, {facts.licence}")
        for name, flavour in facts.flavours.items():
            mark = "*" if name == facts.default_flavour else " "
            print(
                f"  {mark} {name:<20} {flavour.repo}"
                + "".join(f"  {text}" for text in (flavour.note, flavour.warning) if text)
            )
    for row in broken:
        print(f"{row['name']}: BROKEN: {row['reason']}", file=sys.stderr)
    return 0


def export(options: argparse.Namespace) -> int:
    """Write an adapter in another format."""
    from tuner.adapters.conversion import convert
    from tuner.generation.trained import find_trained

    found = find_trained(Path(options.source), None)
    name = options.family or found.provenance.family
    if found.adapter is None:
        raise TunerError(f"{options.source} is no adapter\n    -> a full tune is in diffusers' layout already")
    if name is None:
        raise TunerError(f"{options.source} does not say which family it is for\n    -> name it with --family")
    print(convert(found.adapter, Path(options.target), options.format, load_family(name).facts))
    return 0


def explain(options: argparse.Namespace) -> int:
    """Say what weights are and where they come from."""
    from tuner.cli.explain_command import print_explanation

    print_explanation(Path(options.path), as_json=options.json)
    return 0


def configure(options: argparse.Namespace) -> int:
    """Edit a configuration, by questions in a terminal."""
    from tuner.cli.configure.command import configure as edit

    return edit(options.file)


def twin(options: argparse.Namespace) -> int:
    """Write a twin."""
    from tuner.cli.twins import write_twin

    folder = write_twin(load_family(options.family), Path(options.folder))
    print(f"wrote the twin of {options.family} to {folder}")
    return 0


def new_family(options: argparse.Namespace) -> int:
    """Write the skeleton of a family package."""
    from tuner.cli.new_family import write_family

    for file in write_family(options.name, Path(options.folder)):
        print(file)
    print(f"wrote a package for {options.name}; {Path(options.folder) / 'README.md'} says what to fill in")
    return 0


def demo(options: argparse.Namespace) -> int:
    """Run the demonstration."""
    from tuner.cli.demo import run_demo

    name = options.family or next((facts_name for facts_name in _names()), None)
    if name is None:
        raise TunerError("no model family is installed\n    -> pip install tuner-model-NAME")
    return run_demo(load_family(name), Path(options.folder))


def schema(options: argparse.Namespace) -> int:
    """Print the JSON schema of a kind of file."""
    from tuner.config.schema import config_schema, datasets_schema, lycoris_schema

    if options.file == "datasets":
        shown = datasets_schema()
    elif options.file == "lycoris":
        shown = lycoris_schema()
    else:
        working, _ = survey_families()
        shown = config_schema({family.facts.name: family.facts.options for family, _ in working})
    print(json.dumps(shown, indent=2))
    return 0


def _names() -> list[str]:
    return [family.facts.name for family, _ in survey_families()[0]]


def _as_json(family: Family, aliases: list[str]) -> dict[str, Any]:
    facts = family.facts
    return {
        "name": facts.name,
        "aliases": aliases,
        "title": facts.title,
        "package": family.entry.package,
        "version": family.entry.version,
        "licence": facts.licence,
        "default_flavour": facts.default_flavour,
        "flavours": {
            name: {"repo": flavour.repo, "note": flavour.note, "warning": flavour.warning}
            for name, flavour in facts.flavours.items()
        },
        "advice": dict(facts.advice),
    }
