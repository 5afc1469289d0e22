"""Write docs/options.md: every setting, from the models that read them. `--check` only compares.

Run with everything installed: the installed families' own settings are on the page too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pages import write_or_compare
from tuner.config.datasets import DatasetConfig, MaskConfig, TableConfig, TextCacheConfig
from tuner.config.explain import describe_needs, describe_type
from tuner.config.lycoris import LycorisConfig, LycorisPreset
from tuner.config.settings import field_extra
from tuner.config.topics import TOPICS
from tuner.plugins import Family, import_family, installed_families

PAGE = Path(__file__).parents[1] / "docs" / "options.md"

HEAD = """# Options

<!-- Written by scripts/options_page.py; `make options` writes it anew. -->

Every setting of `config.json`, and of the files that it points to. On the command line, each is `--key value`. Keys may
begin with `--`, numbers and booleans may be written as strings, `""` means not set, and `{env:NAME}` stands for an
environment variable. `tuner check --explain KEY` tells what one of them is set to in your configuration, by whom, and
whether anything reads it.

A setting marked *not served yet* is accepted, so that files need no editing, and each run that asks for it says that it
has no effect.
"""


def main() -> int:
    """Write the page, or compare it; return 1 if it is out of date."""
    return write_or_compare(PAGE, "\n".join(_page()) + "\n", "options")


def _page() -> Iterator[str]:
    families = _families()
    yield HEAD
    for name, model in TOPICS.items():
        yield from _section(name.replace("_", " ").capitalize(), model)
    for family in families:
        if family.facts.options.model_fields:
            yield from _section(f"{family.facts.title} only", family.facts.options)
    yield from _defaults(families)
    yield "# The data set file\n"
    yield "A list of objects; each is one of these. Pictures to train on, or to evaluate with:\n"
    yield from _table(DatasetConfig.model_fields)
    yield "The block `parquet` of a data set:\n"
    yield from _table(TableConfig.model_fields)
    yield "Masks (`dataset_type` is `conditioning`):\n"
    yield from _table(MaskConfig.model_fields)
    yield "Where encoded captions are kept (`dataset_type` is `text_embeds`):\n"
    yield from _table(TextCacheConfig.model_fields)
    yield "# The LyCORIS file\n"
    yield from _table(LycorisConfig.model_fields)
    yield "Its block `apply_preset`:\n"
    yield from _table(LycorisPreset.model_fields)


def _families() -> list[Family]:
    entries = {entry.target: entry for entry in installed_families().values()}
    return sorted(map(import_family, entries.values()), key=lambda family: family.facts.name)


def _section(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{(model.__doc__ or '').splitlines()[0]}\n"
    yield from _table(model.model_fields)


def _table(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    yield "| key | type | default | what it does |"
    yield "|---|---|---|---|"
    for key, field in fields.items():
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        yield f"| `{key}` | {_cell(_type(field))} | {_cell(default)} | {_cell(' '.join(_story(field)))} |"
    yield ""


def _type(field: FieldInfo) -> str:
    unit = field_extra(field, "unit", None)
    return describe_type(field) + (f", in {unit}" if unit else "")


def _story(field: FieldInfo) -> Iterator[str]:
    yield field.description or ""
    yield from _bounds(field.metadata)
    if aliases := field_extra(field, "aliases", []):
        yield f"Also: {', '.join(f'`{alias}`' for alias in aliases)}."
    if needs := field_extra(field, "needs", {}):
        yield f"Needs {', '.join(f'`{other}` {describe_needs(allowed)}' for other, allowed in needs.items())}."
    if known := field_extra(field, "known", []):
        yield f"*Not served yet*, and refused: {', '.join(known)}."
    unread = field_extra(field, "unread", None)
    if isinstance(unread, Mapping):
        for case, reason in unread.items():
            yield f"*{_shown(case)}: {reason}.*"
    elif unread:
        yield f"*{unread[0].upper()}{unread[1:]}.*"


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    words = {"ge": "At least", "gt": "Above", "le": "At most", "lt": "Below"}
    for item in metadata:
        for name, word in words.items():
            if (bound := getattr(item, name, None)) is not None:
                yield f"{word} {bound:g}."


def _defaults(families: list[Family]) -> Iterator[str]:
    yield "## Defaults that families change\n"
    yield "| family | flavour | setting | default |"
    yield "|---|---|---|---|"
    for family in families:
        facts = family.facts
        rows: dict[str, Mapping[str, Any]] = {"": {"aspect_bucket_alignment": facts.pixel_alignment}}
        rows[""] = {**rows[""], **facts.setting_defaults}
        rows.update({name: flavour.setting_defaults for name, flavour in facts.flavours.items()})
        for flavour, changed in rows.items():
            for key, value in changed.items():
                yield f"| {facts.title} | {flavour or 'all'} | `{key}` | {_cell(_shown(value))} |"
        for key, reason in facts.inert_settings.items():
            yield f"| {facts.title} | all | `{key}` | has no meaning: {_cell(reason)} |"
    yield ""


def _shown(value: Any) -> str:
    if value is None or value == () or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, BaseModel):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
