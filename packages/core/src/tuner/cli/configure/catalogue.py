"""What can be asked about: the settings of the models, their choices, and whether a value is accepted."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tuner.cli.configure.draft import MISSING
from tuner.config.keys import all_settings, describe_errors
from tuner.config.lycoris import LycorisConfig
from tuner.config.placeholders import Expansion
from tuner.config.settings import field_extra
from tuner.config.topics import TOPICS

USUAL = (
    "model_family", "model_flavour", "model_type", "output_dir",
    "lora_type", "lora_rank", "lora_alpha", "lycoris_config",
    "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "optimizer",
    "learning_rate", "lr_scheduler", "lr_warmup_steps",
    "use_ema", "ema_decay",
    "flow_schedule_shift", "flow_schedule_auto_shift",
    "mixed_precision", "base_model_precision", "text_encoder_1_precision", "text_encoder_2_precision",
    "text_encoder_3_precision", "text_encoder_4_precision", "quantize_via",
    "data_backend_config", "resolution", "resolution_type",
    "checkpoint_step_interval", "checkpoints_total_limit",
    "validation_prompt", "validation_step_interval", "validation_resolution", "validation_num_inference_steps",
    "validation_guidance",
    "report_to", "tracker_project_name", "tracker_run_name",
    "push_to_hub", "push_checkpoints_to_hub", "hub_model_id",
)  # fmt: skip
"""Settings that people are asked for without asking for them; every other one can be looked up."""


@dataclass(frozen=True)
class Setting:
    """One setting of a model.

    Attributes:
        key: Its name.
        topic: Its topic.
        model: The model that has it.
        field: Its declaration.
    """

    key: str
    topic: str
    model: type[BaseModel]
    field: FieldInfo

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, and others that files may use."""
        return (self.key, *field_extra(self.field, "aliases", []))

    @property
    def default(self) -> Any:
        """Its default, or `MISSING` where it must be given."""
        return MISSING if self.field.is_required() else self.field.get_default(call_default_factory=True)

    @property
    def choices(self) -> list[Any] | None:
        """The values it can have, or that have a name; None where there are too many to list."""
        members = list(_members(self.field.annotation))
        return [member for member in members if isinstance(member, str)] or None if MISSING in members else members


@dataclass(frozen=True)
class Verdict:
    """What a model says of a value.

    Attributes:
        value: The value as the model holds it, or, as an answer, as a file should hold it.
        message: Why it is refused, or None.
    """

    value: Any
    message: str | None = None


def settings_of_run(options: type[BaseModel] | None) -> dict[str, Setting]:
    """Return all settings of a configuration by name, in the order of the topics.

    Args:
        options: The family's own settings, or None while the family is unknown.
    """
    models: dict[str, type[BaseModel] | None] = {**TOPICS, "family": options}
    found: dict[str, Setting] = {}
    for topic, key, field in all_settings(options):
        model = models[topic]
        assert model is not None
        found[key] = Setting(key, topic, model, field)
    return found


def settings_of_lycoris() -> dict[str, Setting]:
    """Return the settings of a LyCORIS file that one value answers; what is nested is left to an editor."""
    fields = LycorisConfig.model_fields.items()
    return {
        key: Setting(key, "lycoris", LycorisConfig, field)
        for key, field in fields
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
    }


def judge(setting: Setting, value: Any) -> Verdict:
    """Ask the model about a value as a file holds it, placeholders included.

    A placeholder whose variable is not set here passes, since it may be set where training runs.
    """
    expansion = Expansion()
    value = expansion.expand(value, setting.key)
    if expansion.problems:
        return Verdict(value)
    try:
        model = setting.model.model_validate({**_stand_ins(setting), setting.key: value})
    except ValidationError as error:
        problems = describe_errors(error, "", setting.model)
        own = [item for item in problems if str(item.key).partition(".")[0] == setting.key]
        # What only several settings together violate is found when all answers are there.
        return Verdict(value, own[0].message if own else None)
    return Verdict(getattr(model, setting.key))


def read_answer(setting: Setting, text: str) -> Verdict:
    """Turn what somebody typed into the value that a file should hold."""
    if not text.strip() and setting.field.is_required():
        return Verdict(None, "is required")
    readings: list[Any] = [text.strip()]
    with_types = _parse(text)
    if isinstance(with_types, (bool, int, float, list, dict)):
        readings.insert(0, with_types)
    for reading in readings:
        verdict = judge(setting, reading)
        if verdict.message is None:
            plain = isinstance(reading, str) and isinstance(verdict.value, (bool, int, float))
            return Verdict(verdict.value if plain else reading)
    return verdict


def show(value: Any) -> str:
    """Return a value as people type it."""
    if value in (None, MISSING):
        return ""
    if isinstance(value, (bool, list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the values of a type, and `MISSING` for a part that has no list of them."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _members(part)
    elif origin is typing.Literal:
        yield from typing.get_args(annotation)
    elif annotation is bool:
        yield from (True, False)
    elif annotation is type(None):
        yield None
    else:
        yield MISSING


def _stand_ins(setting: Setting) -> dict[str, Any]:
    """Return any valid value for each other required setting, since a model is judged as a whole."""
    return {
        name: next((member for member in _members(field.annotation) if member is not MISSING), "1")
        for name, field in setting.model.model_fields.items()
        if field.is_required() and name != setting.key
    }
