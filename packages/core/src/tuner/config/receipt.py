"""The settings receipt: every setting's value and origin, and what of it nothing will read, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tuner.config.dataset_file import INHERITED
from tuner.config.datasets import DatasetConfig
from tuner.config.evaluation_receipt import evaluation_unread
from tuner.config.keys import Given, all_settings
from tuner.config.precision import ENCODER_KEYS
from tuner.config.previews import preview_obstacle
from tuner.config.run import RunConfig
from tuner.config.settings import HIDDEN, field_extra, is_secret, without_secrets
from tuner.config.storage import stored_parts
from tuner.quantisation.schemes import UNQUANTISED
from tuner.types import FamilyFacts

_WHAT_PICTURES_SHOW = {"validation_prompt", "user_prompt_library", "validation_prompt_library"}
RECEIPT_FILE = "settings_receipt.json"
"""File of the settings receipt in the output folder."""


@dataclass(frozen=True)
class ReceiptRow:
    """One setting of a run.

    Attributes:
        key: Its name; "DATASET: name" for one of a data set.
        value: Its value, as JSON holds it; secrets hidden.
        origin: File, "command line", "family", "optimizer", "configuration" (taken over by a data set) or "default".
        unread: Why nothing reads it, or None.
    """

    key: str
    value: Any
    origin: str
    unread: str | None = None


def settings_receipt(
    config: RunConfig,
    given: Mapping[str, Given],
    facts: FamilyFacts,
    unread: Mapping[str, str],
    secrets: Collection[str] = (),
) -> tuple[ReceiptRow, ...]:
    """Return a row for every setting, those of data sets last.

    Args:
        config: The configuration.
        given: What was given, with its origin.
        facts: The family's facts.
        unread: Settings that nothing reads -> why, as `LoadedConfig.unread`.
        secrets: Texts that must not appear.
    """
    values = _values(config, facts)
    rows: dict[str, ReceiptRow] = {}
    for _, key, field in all_settings(facts.options):
        reason = unread.get(key) or (_reason(field, values[key]) if key in given else None)
        origin = given[key].origin if key in given else "default"
        rows[key] = ReceiptRow(key, scrubbed(key, values[key], secrets), origin, reason)
    for dataset in (*config.datasets, *config.eval_datasets):
        for key in sorted(dataset.model_fields_set):
            name = f"{dataset.id}: {key}"
            origin = "data set file or configuration" if key in INHERITED else "data set file"
            rows[name] = ReceiptRow(name, scrubbed(key, getattr(dataset, key), secrets), origin, unread.get(name))
    # What is left belongs to another family.
    rows.update((key, ReceiptRow(key, None, "file", reason)) for key, reason in unread.items() if key not in rows)
    return tuple(rows.values())


def unread_settings(config: RunConfig, given: Mapping[str, Given], facts: FamilyFacts) -> dict[str, str]:
    """Return the settings that somebody gave, that ask for something and that nothing will read; with the reasons."""
    values = _values(config, facts)
    unread: dict[str, str] = {}
    for _, key, field in all_settings(facts.options):
        if key not in given or given[key].origin == "family":
            continue
        reason = _unmet(field, values)
        if values[key] != field.get_default(call_default_factory=True):
            reason = _reason(field, values[key]) or reason
        if reason:
            unread[key] = reason
    unread.update(_special(config, given, facts))
    for dataset in (*config.datasets, *config.eval_datasets):
        unread.update((f"{dataset.id}: {key}", reason) for key, reason in _unread_of(dataset))
    unread.update(evaluation_unread(config, given))
    return unread


def _values(config: RunConfig, facts: FamilyFacts) -> dict[str, Any]:
    return {key: getattr(getattr(config, topic), key) for topic, key, _ in all_settings(facts.options)}


def _special(config: RunConfig, given: Mapping[str, Given], facts: FamilyFacts) -> Iterator[tuple[str, str]]:
    if config.validation.validation_preview and (obstacle := preview_obstacle(config, facts)):
        yield "validation_preview", obstacle
    yield from _of_pictures(config, given)
    if config.optimisation.optimizer_spec.bounds_itself:
        for key in {"max_grad_norm", "grad_clip_method"} & given.keys():
            yield key, f"{config.optimisation.optimizer} limits its own updates"
    stored = stored_parts(config.precision, config.model, facts)
    encoders = len(facts.text_encoder_folders)
    for key in ENCODER_KEYS[encoders:]:
        if key in given and getattr(config.precision, key) != UNQUANTISED:
            yield key, f"{facts.title} has {encoders or 'no'} text encoder{'s' if encoders > 1 else ''}"
    if "quantize_via" in given and config.precision.quantize_via != "cpu" and not stored:
        yield "quantize_via", "nothing is quantised"
    if "accelerate_config" in given and config.launch.num_processes == 1:
        yield "accelerate_config", "num_processes is 1, so nothing is launched"
    if config.shards and config.launch.num_processes == 1:
        key = "fsdp_enable" if config.sharding.fsdp_enable else "deepspeed_config"
        yield key, "num_processes is 1, and one process holds the whole model"
    alignment = given.get("aspect_bucket_alignment")
    if alignment and alignment.origin != "family" and config.data.aspect_bucket_alignment != facts.pixel_alignment:
        yield "aspect_bucket_alignment", f"{facts.title} needs sides in multiples of {facts.pixel_alignment}"
    if len(config.datasets) == 1:
        name = f"{config.datasets[0].id}: probability"
        if "probability" in config.datasets[0].model_fields_set and config.datasets[0].probability != 1:
            yield name, "there is no other data set to draw from"


def _of_pictures(config: RunConfig, given: Mapping[str, Given]) -> Iterator[tuple[str, str]]:
    """Yield what no picture reads; without the interval, `needs` has said so already."""
    validation = config.validation
    if not validation.validation_step_interval:
        return
    if not (validation.validation_prompt or config.prompts):
        for key, field in type(validation).model_fields.items():
            if key in given.keys() - _WHAT_PICTURES_SHOW and getattr(validation, key) != field.default:
                yield key, "neither validation_prompt nor a library gives a prompt"
    elif validation.validation_guidance <= 1:
        for key in ("validation_guidance_rescale", "validation_negative_prompt"):
            if key in given and getattr(validation, key):
                yield key, f"validation_guidance is {validation.validation_guidance:g}, which is no guidance"


def _unread_of(dataset: DatasetConfig) -> Iterator[tuple[str, str]]:
    values = {key: getattr(dataset, key) for key in DatasetConfig.model_fields}
    for key in sorted(dataset.model_fields_set - set(INHERITED)):
        field = DatasetConfig.model_fields[key]
        if values[key] is None or values[key] == field.get_default(call_default_factory=True):
            continue
        if reason := _reason(field, values[key]) or _unmet(field, values):
            yield key, reason


def _reason(field: FieldInfo, value: Any) -> str | None:
    unread = field_extra(field, "unread", None)
    if isinstance(unread, Mapping):
        return next((reason for case, reason in unread.items() if case == value and type(case) is type(value)), None)
    return unread


def _unmet(field: FieldInfo, values: Mapping[str, Any]) -> str | None:
    for other, allowed in field_extra(field, "needs", {}).items():
        if not meets(values[other], allowed):
            return f"{other} is {values[other]!r}"
    return None


def meets(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether a setting is as another one needs it: one of `allowed`, where booleans also mean given and not given."""
    if all(isinstance(choice, bool) for choice in allowed):
        return (bool(value) and value != "none") in allowed
    return value in allowed


def scrubbed(key: str, value: Any, secrets: Collection[str] = ()) -> Any:
    """Return a JSON value without secrets: those of keys that hold one, and every text in `secrets`."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    elif isinstance(value, Path):
        value = str(value)
    if value not in (None, "", [], {}) and is_secret(key):
        return HIDDEN
    if isinstance(value, dict):
        return {name: scrubbed(str(name), item, secrets) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrubbed(key, item, secrets) for item in value]
    return without_secrets(value, secrets) if isinstance(value, str) else value
