"""The settings receipt: what was given but will not be read in this run, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.config.dataset_file import INHERITED
from tuner.config.datasets import DatasetConfig
from tuner.config.keys import Given, all_settings
from tuner.config.run import RunConfig
from tuner.config.settings import field_extra
from tuner.types import FamilyFacts


def unread_settings(config: RunConfig, given: Mapping[str, Given], facts: FamilyFacts) -> dict[str, str]:
    """Return the settings that somebody gave and nothing will read, with the reason for each."""
    values = {key: getattr(getattr(config, topic), key) for topic, key, _ in all_settings(facts.options)}
    unread: dict[str, str] = {}
    for _, key, field in all_settings(facts.options):
        if key not in given or given[key].origin == "family":
            continue
        for other, allowed in field_extra(field, "needs", {}).items():
            if not _holds(values[other], allowed):
                unread[key] = f"{other} is {values[other]!r}"
    for key in ("validation_num_inference_steps", "validation_resolution", "validation_guidance", "validation_seed"):
        if key in given and key not in unread and not (config.validation.validation_prompt or config.prompts):
            unread[key] = "neither validation_prompt nor user_prompt_library is given"
    alignment = given.get("aspect_bucket_alignment")
    if alignment and alignment.origin != "family" and config.data.aspect_bucket_alignment != facts.pixel_alignment:
        unread["aspect_bucket_alignment"] = f"{facts.title} needs sides in multiples of {facts.pixel_alignment}"
    for dataset in config.datasets:
        for key in dataset.model_fields_set - set(INHERITED):
            for other, allowed in field_extra(DatasetConfig.model_fields[key], "needs", {}).items():
                if getattr(dataset, key) is not None and not _holds(getattr(dataset, other), allowed):
                    unread[f"{dataset.id}: {key}"] = f"{other} is {getattr(dataset, other)!r}"
    return unread


def _holds(value: Any, allowed: tuple[Any, ...]) -> bool:
    if all(isinstance(choice, bool) for choice in allowed):
        return bool(value) in allowed
    return value in allowed
