"""Settings of which some were refused: what the others say can still be checked, so that all problems come at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pydantic import Field, create_model

from tuner.config.settings import Topic
from tuner.errors import Problem

P = ParamSpec("P")
T = TypeVar("T", bound=Topic)


class UnknownSettingError(Exception):
    """Somebody reads a setting whose value was refused. What depends on it cannot be judged."""


def partial_topic(model: type[T], values: Mapping[str, Any], refused: Collection[str]) -> T:
    """Validate what was not refused of a topic. Reading the rest raises `UnknownSettingError`.

    Args:
        model: The topic.
        values: What was given.
        refused: Settings whose values were refused, or are required and lack.
    """
    # Such a setting has no rule and no default here; its place is emptied below.
    free: Any = {name: (Any, Field(None, validate_default=False)) for name in refused}
    bases: Any = (_Partial, model)
    relaxed: type[T] = create_model(model.__name__, __base__=bases, **free)
    topic = relaxed.model_validate({name: value for name, value in values.items() if name not in refused})
    for name in refused:
        del topic.__dict__[name]
    return topic


def as_far_as_known(check: Callable[P, Iterable[Problem]]) -> Callable[P, list[Problem]]:
    """Let a check end where it reads a setting that was refused on its own."""

    @wraps(check)
    def found(*arguments: P.args, **named: P.kwargs) -> list[Problem]:
        problems: list[Problem] = []
        try:
            for problem in check(*arguments, **named):
                problems.append(problem)
        except UnknownSettingError:
            pass
        return problems

    return found


class _Partial(Topic):
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Called for what is not there."""
            if name in type(self).model_fields:
                raise UnknownSettingError(name)
            return super().__getattr__(name)
