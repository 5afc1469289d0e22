"""What a request leaves open, filled in from what the trained file records; all that is wrong is said at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tuner.config.checks import aligned_size
from tuner.config.dataset_file import is_folder
from tuner.config.loading import changed_defaults
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.precision import PrecisionConfig
from tuner.config.storage import StoredPart, storage_problems, stored_parts
from tuner.config.validation import ValidationConfig
from tuner.errors import ConfigError, PluginError, Problem, TunerError
from tuner.generation.checks import conflicts, out_of_range
from tuner.generation.request import GenerateRequest
from tuner.generation.trained import Trained, denoiser_provenance, find_trained
from tuner.plugins import Family, load_family
from tuner.provenance import Provenance
from tuner.training.planning import side_limit
from tuner.training.sources import ModelSource, resolve_source

logger = logging.getLogger(__name__)

TopicT = TypeVar("TopicT", bound=BaseModel)
_LINE = "command line"
_UNKNOWN_SIZE = (1024, 1024)
"""Size in pixels of pictures where neither the request nor the file names one."""


@dataclass(frozen=True)
class Choices:
    """A request with nothing left open.

    Attributes:
        family: The model family.
        source: The base model, or the whole pipeline that was trained.
        options: The family's own settings.
        provenance: What the trained weights say of their origin.
        trained: The trained weights, if any.
        precision: Number formats.
        memory: Of the codec.
        stored: How the denoiser is quantised; empty if it is not.
        negative: Prompt to steer away from.
        seed: Of the first picture of each prompt and size.
        guidance: Guidance scale.
        steps: Sampling steps.
        sizes: (width, height) in pixels, as the family needs them.
    """

    family: Family
    source: ModelSource
    options: BaseModel
    provenance: Provenance
    trained: Trained | None
    precision: PrecisionConfig
    memory: MemoryConfig
    stored: tuple[StoredPart, ...]
    negative: str
    seed: int
    guidance: float
    steps: int
    sizes: tuple[tuple[int, int], ...]


def choose(request: GenerateRequest, problems: Sequence[Problem] = ()) -> Choices:
    """Fill in what a request leaves open. Reads headers and small files only.

    Args:
        request: What is asked for.
        problems: What was found wrong with it before.

    Raises:
        ConfigError: Naming all that is wrong.
        TunerError: The trained weights or the base model are not there, and nothing else is wrong.
    """
    found = [*problems, *out_of_range(request, problems)]
    try:
        choices = _choose(request)
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from error
    except TunerError as error:
        if not found:
            raise
        raise ConfigError([*found, Problem(str(error))]) from error
    if found:
        raise ConfigError(found)
    return choices


def _choose(request: GenerateRequest) -> Choices:
    trained = find_trained(request.trained, request.weights) if request.trained else None
    family = _family(request, trained)
    facts = family.facts
    provenance = trained.provenance if trained else Provenance()
    if trained and trained.pipeline:
        provenance = denoiser_provenance(trained.pipeline, facts)
    settings = provenance.settings or {}
    source = _source(request, trained, provenance, family)
    validation, memory = _topic(ValidationConfig, settings), _topic(MemoryConfig, settings)
    precision = PrecisionConfig(
        mixed_precision=request.precision or _topic(PrecisionConfig, settings).mixed_precision,
        base_model_precision="no_change",
    )
    problems = list(conflicts(request, trained))
    options = _options(request, settings, family, source, problems)
    model = ModelConfig(model_family=facts.name, model_type="lora", output_dir=request.output)
    quantised = _quantised(precision, request, problems)
    topics = {"precision": quantised, "model": model, "family": options}
    if options is not None and quantised is not None:
        problems += (Problem(item.message, _LINE, "quantise", item.remedy) for item in storage_problems(topics, family))
    sizes = request.sizes or (tuple(validation.sizes()) if "validation_resolution" in settings else (_UNKNOWN_SIZE,))
    aligned = tuple(_aligned(size, family) for size in sizes)
    problems += _oversized(aligned, family, source)
    if problems or options is None or quantised is None:
        raise ConfigError(problems)
    seed = validation.validation_seed if validation.validation_seed is not None else provenance.seed
    return Choices(
        family, source, options, provenance, trained, precision, memory,
        stored=stored_parts(quantised, model, facts),
        negative=validation.validation_negative_prompt if request.negative is None else request.negative,
        seed=request.seed if request.seed is not None else (42 if seed is None else seed),
        guidance=validation.validation_guidance if request.guidance is None else request.guidance,
        steps=request.steps or validation.validation_num_inference_steps,
        sizes=aligned,
    )  # fmt: skip


def _family(request: GenerateRequest, trained: Trained | None) -> Family:
    recorded = trained.provenance.family if trained else None
    if request.family and recorded and load_family(request.family).facts.name != recorded:
        raise ConfigError(
            [Problem(f"{trained.path if trained else ''} was trained for {recorded}", _LINE, "family", "leave it out")]
        )
    name = request.family or recorded
    if name is None:
        reason = "the file does not say what it was trained for" if trained else "nothing trained is named"
        raise ConfigError([Problem(f"is required, since {reason}", _LINE, "family", "`tuner families` lists them")])
    try:
        return load_family(name)
    except PluginError as error:
        raise ConfigError([Problem(str(error), _LINE, "family")]) from error


def _source(request: GenerateRequest, trained: Trained | None, provenance: Provenance, family: Family) -> ModelSource:
    """Say where the base model is: as asked, as recorded in the header, or as the run's receipt names it."""
    if trained and trained.pipeline:
        if request.base:
            problem = Problem(f"{trained.pipeline} is a whole pipeline and needs no other model", _LINE, "base")
            raise ConfigError([problem])
        return ModelSource(str(trained.pipeline), True)
    base, revision = request.base, request.revision
    if base is None and provenance.base_revision:
        base, revision = provenance.base_model, revision or provenance.base_revision
    elif base is None and provenance.base_fingerprint:
        base = trained.recorded_base() if trained else None
        if base is None:
            raise TunerError(
                f"{trained.path if trained else ''} was trained on the local model {provenance.base_model}, and "
                "nothing beside it says where that is\n    -> give its folder with --base"
            )
        if not is_folder(base):
            raise TunerError(
                f"{trained.path if trained else ''} was trained on the local model {base}, which is not there any "
                "more\n    -> give its folder with --base"
            )
    model = ModelConfig(
        model_family=family.facts.name,
        model_type="lora",
        output_dir=Path(),
        pretrained_model_name_or_path=base,
        revision=revision,
    )
    return resolve_source(model, family.facts, "--base")


def _options(
    request: GenerateRequest, settings: Mapping[str, Any], family: Family, source: ModelSource, problems: list[Problem]
) -> BaseModel | None:
    """Build the family's own settings. From the file come those alone that decide on conditionings."""
    facts = family.facts
    read = facts.options.model_fields if facts.text_options is None else facts.text_options
    flavour = next((name for name, item in facts.flavours.items() if item.repo == source.name), "")
    usual = {key: value for key, value in changed_defaults(facts, flavour).items() if key in facts.options.model_fields}
    recorded = {key: settings[key] for key in read if settings.get(key) is not None}
    try:
        return facts.options.model_validate({**usual, **recorded, **request.options})
    except ValidationError as error:
        known = ", ".join(facts.options.model_fields) or "none"
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            problems.append(Problem(item["msg"], _LINE, key, f"{facts.title}'s own settings: {known}"))
        return None


def _topic(model: type[TopicT], settings: Mapping[str, Any]) -> TopicT:
    """Read a topic from recorded settings; what this version does not accept any more gets its default."""
    values = {key: settings[key] for key in model.model_fields if settings.get(key) is not None}
    while True:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            for item in error.errors():
                logger.warning("the file records %s, which is not accepted: %s", item["loc"][0], item["msg"])
                values.pop(str(item["loc"][0]), None)


def _quantised(precision: PrecisionConfig, request: GenerateRequest, problems: list[Problem]) -> PrecisionConfig | None:
    try:
        values = {**precision.model_dump(), "base_model_precision": request.quantise}
        return PrecisionConfig.model_validate(values)
    except ValidationError as error:
        problems.append(Problem(f"{request.quantise!r}: {error.errors()[0]['msg']}", _LINE, "quantise"))
        return None


def _aligned(size: tuple[int, int], family: Family) -> tuple[int, int]:
    aligned = aligned_size(*size, family.facts)
    if aligned != size:
        logger.warning("%dx%d is rounded to %dx%d, as %s needs it", *size, *aligned, family.facts.title)
    return aligned


def _oversized(sizes: tuple[tuple[int, int], ...], family: Family, source: ModelSource) -> Iterator[Problem]:
    longest = side_limit(source, family.facts)
    for width, height in sizes:
        if longest is not None and max(width, height) > longest:
            yield Problem(f"{width}x{height} is too large: sides end at {longest} pixels", _LINE, "resolution")
