"""Whether the formats that frozen weights are to be stored in can be had: what is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.config.lycoris import LycorisConfig
from tuner.config.model import ModelConfig
from tuner.config.partial import as_far_as_known
from tuner.config.precision import ENCODER_KEYS, PrecisionConfig
from tuner.errors import Problem
from tuner.plugins import Family, create_manager
from tuner.quantisation.schemes import SCHEMES, UNQUANTISED, Scheme
from tuner.types import FamilyFacts, Part, PartPolicy, QuantisationPolicy

_BASE = "base_model_precision"


@dataclass(frozen=True)
class StoredPart:
    """A network that is quantised.

    Attributes:
        key: The setting that says so.
        part: The part that it belongs to.
        folder: Its sub-folder in the diffusers layout.
        scheme: How it is stored.
    """

    key: str
    part: Part
    folder: str
    scheme: Scheme


def stored_parts(precision: PrecisionConfig, model: ModelConfig, facts: FamilyFacts) -> tuple[StoredPart, ...]:
    """Return what a run stores quantised. Weights that are trained are not, nor are encoders that a family lacks."""
    asked: list[tuple[str, Part, str, str]] = []
    if model.model_type == "lora":
        asked.append((_BASE, "denoiser", facts.part_folders["denoiser"][0], precision.base_model_precision))
    for number, folder in enumerate(facts.text_encoder_folders[: len(ENCODER_KEYS)]):
        asked.append((ENCODER_KEYS[number], "text_encoders", folder, precision.scheme_of_encoder(number)))
    return tuple(
        StoredPart(key, part, folder, SCHEMES[value]) for key, part, folder, value in asked if value != UNQUANTISED
    )


@as_far_as_known
def storage_problems(topics: Mapping[str, Any], family: Family) -> Iterator[Problem]:
    """Check formats against the policy of the family and the libraries that are installed."""
    precision: PrecisionConfig = topics["precision"]
    model: ModelConfig = topics["model"]
    stored = precision.base_model_precision
    if stored != UNQUANTISED and model.model_type == "full" and not model.i_know_what_i_am_doing:
        yield Problem(
            f"{stored} stores weights that model_type full is to change",
            key=_BASE,
            remedy="set it to no_change, or train with model_type lora",
        )
    parts = stored_parts(precision, model, family.facts)
    if parts and precision.mixed_precision == "fp16" and not model.i_know_what_i_am_doing:
        yield Problem(
            "fp16 was never tried with weights that are stored in fewer bits",
            key="mixed_precision",
            remedy="use bf16, or set i_know_what_i_am_doing to try it",
        )
    if not parts or "family" not in topics:
        return
    policy: QuantisationPolicy = create_manager(family).hook.quantisation_policy(options=topics["family"])
    for part in parts:
        refusal = _refusal(part, policy.parts.get(part.part), family.facts, model.i_know_what_i_am_doing)
        if problem := refusal or _missing_library(part):
            yield problem
    yield from _two_libraries(parts, policy, family.facts)


@as_far_as_known
def adapter_problems(topics: Mapping[str, Any], lycoris: LycorisConfig | None, file: str) -> Iterator[Problem]:
    """Check that an adapter can train on the base model as it is stored."""
    precision: PrecisionConfig = topics["precision"]
    if lycoris is None or precision.base_model_precision == UNQUANTISED:
        return
    if lycoris.bypass_mode is False:
        yield Problem(
            f"false rebuilds the weights of layers, which {_BASE} {precision.base_model_precision} stores rounded: "
            "what the adapter learns would be rounded away with them",
            file,
            "bypass_mode",
            f"set it to true or leave it out, or set {_BASE} to no_change",
        )


def _refusal(part: StoredPart, policy: PartPolicy | None, facts: FamilyFacts, knows: bool) -> Problem | None:
    name = part.scheme.name
    if policy is None:
        network = part.part.replace("_", " ")
        return Problem(f"{facts.title} leaves its {network} as published", key=part.key, remedy="set it to no_change")
    if name in policy.refused:
        return Problem(f"{name} is refused for {facts.title}: {policy.refused[name]}", key=part.key)
    if name in policy.allowed or knows:
        return None
    allowed = ", ".join(policy.allowed)
    if name in policy.discouraged:
        message = f"{name} is not worth it for {facts.title}: {policy.discouraged[name]}"
        return Problem(message, key=part.key, remedy="or set i_know_what_i_am_doing to true")
    return Problem(
        f"{name} was never tried with {facts.title} (tested: {allowed})",
        key=part.key,
        remedy="use one of these, or set i_know_what_i_am_doing to true",
    )


def _missing_library(part: StoredPart) -> Problem | None:
    library = part.scheme.library
    if library.installed():
        return None
    return Problem(
        f"{part.scheme.name} needs {library.package}, which is not installed",
        key=part.key,
        remedy=f"pip install 'tuner-core[{library.extra}]'",
    )


def _two_libraries(parts: tuple[StoredPart, ...], policy: QuantisationPolicy, facts: FamilyFacts) -> Iterator[Problem]:
    bound = [part for part in parts if part.key in policy.one_library]
    if len({part.scheme.library.name for part in bound}) > 1:
        values = " and ".join(f"{part.key} {part.scheme.name}" for part in bound)
        yield Problem(
            f"{facts.title} needs one library for both, and {values} are of two",
            key=bound[-1].key,
            remedy=f"use a format that ends in -{bound[0].scheme.library.name}, or no_change",
        )
