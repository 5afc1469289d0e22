"""`optimizer_config`: from text to the arguments of an optimizer."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.config.optimizers import OptimizerSpec, find_optimizer

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": None, "null": None}


def parse_options(text: str) -> dict[str, str]:
    """Split "key=value, key=value".

    A piece without `=` belongs to the value before it, so that `betas=0.9,0.99` needs no brackets.

    Raises:
        ValueError: A piece stands before any key, or a key is given twice.
    """
    options: dict[str, str] = {}
    key = ""
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        if not equals and not key:
            raise ValueError(f"{piece.strip()!r} has no value: write key=value, separated by commas")
        if not equals:
            options[key] += f",{piece}"
            continue
        key = name.strip().lstrip("-")
        if key in options:
            raise ValueError(f"{key} is given twice")
        options[key] = value.strip()
    return options


def read_options(spec: OptimizerSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what was given into arguments of the optimizer's class, of the types of its defaults.

    Raises:
        ValueError: The class cannot be imported, or a key or value is not accepted; the message names all of them.
    """
    parameters = _parameters(find_optimizer(spec.path))
    read: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in options.items():
        default = spec.defaults.get(key, parameters[key].default if key in parameters else None)
        try:
            if key in spec.fixed:
                raise ValueError(f"it cannot be set here: {spec.fixed[key]}")
            if key not in parameters:
                raise ValueError(_unknown(key, list(parameters)))
            read[key] = _coerced(value, default)
        except ValueError as error:
            wrong.append(f"{key}: {error}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return read


def try_options(spec: OptimizerSpec, options: Mapping[str, Any]) -> None:
    """Make the optimizer over a weight that nothing uses, so that it can refuse what it is given.

    Raises:
        ValueError: It does, or a key or value is not accepted.
    """
    from torch import zeros
    from torch.nn import Parameter

    made = find_optimizer(spec.path)
    arguments = {**spec.defaults, **read_options(spec, options)}
    try:
        optimizer = made([Parameter(zeros(1))], lr=1e-4, **arguments)
        inspect.signature(optimizer.step).bind()
    except Exception as error:  # what a library raises is not ours to foresee
        raise ValueError(f"{spec.path} cannot be used: {' '.join(str(error).split())}") from error
    averages = arguments.get("use_schedulefree", hasattr(optimizer, "eval"))
    if averages:
        raise ValueError(
            f"{spec.path} trains other weights than those to be used, and changes between them by train() and eval(), "
            "which nothing calls here; use_ema averages weights"
        )


def _parameters(optimizer: type[Any]) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(optimizer).parameters
    return {name: item for name, item in parameters.items() if item.kind in kinds and name != "params"}


def _unknown(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"no such option; did you mean {close[0]}?" if close else f"no such option (there are {', '.join(known)})"


def _coerced(value: Any, default: Any) -> Any:
    """Return a value with the type of a default; where that is None, with the type that it seems to have."""
    value = _literal(value) if isinstance(value, str) and not isinstance(default, str) else value
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(default, bool):
        if value in (0, 1):
            return bool(value)
        raise ValueError(f"{value!r} is neither true nor false")
    if value is None:
        return None  # what it means is the library's to say
    if isinstance(default, (int, float)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{value!r} is no number")
        return value
    if isinstance(default, tuple) and not (isinstance(value, tuple) and len(value) == len(default)):
        raise ValueError(f"{value!r} is not {len(default)} values, as in {default}")
    return value


def _literal(text: str) -> Any:
    """Read a number, several numbers, or a word for true, false or none; anything else is text."""
    plain = text.strip()
    if plain.lower() in _WORDS:
        return _WORDS[plain.lower()]
    try:
        return ast.literal_eval(plain)
    except (ValueError, SyntaxError):
        return plain
