"""What is known of the processes of a run beside its own settings: the launcher's word, and accelerate's file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.config.references import Reading
from tuner.config.sharding import ShardingConfig
from tuner.errors import Problem
from tuner.launched import launched

_LAUNCHER = "the launcher"
_FSDP = "FSDP"
_SERVED = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", _FSDP)
"""Kinds of accelerate's `distributed_type` that a run knows."""

Sources = list[tuple[str, Mapping[str, Any]]]
"""(origin, flat values) from weakest to strongest."""


def launch_sources(sources: Sources, reading: Reading) -> tuple[Sources, Sources]:
    """Return what is weaker and what is stronger than the settings that were given.

    A file of accelerate's gives numbers where the settings give none, and a launcher that has started this process
    has the last word.

    Args:
        sources: (origin, flat values) from weakest to strongest.
        reading: Takes note of problems and warnings.
    """
    named = [
        (origin, str(value))
        for origin, values in sources
        for key, value in values.items()
        if key.lstrip("-") == "accelerate_config" and str(value or "").strip()
    ]
    weaker: Sources = []
    stronger: Sources = []
    if named:
        origin, name = named[-1]
        if path := reading.find(Path(name.strip()), None, "accelerate_config"):
            weaker.append((str(path), dict(_from_file(path, reading))))
            stronger.append((origin, {"accelerate_config": str(path)}))
    process = launched()
    if process is not None:
        weaker.append((_LAUNCHER, dict(_from_launcher())))
        given = [value for _, values in sources for key, value in values.items() if key.lstrip("-") == "num_processes"]
        if given and str(given[-1]).strip() != str(process.processes):
            reading.warnings.append(f"num_processes is {given[-1]}, but {process.processes} were launched: these train")
        stronger.append((_LAUNCHER, {"num_processes": process.processes}))
    return weaker, stronger


def _from_file(path: Path, reading: Reading) -> Iterator[tuple[str, Any]]:
    content = reading.read(path)
    if content is None:
        return
    if not isinstance(content, dict):
        reading.problems.append(Problem(f"must be an object, not {type(content).__name__}", str(path)))
        return
    kind = str(content.get("distributed_type", "NO"))
    if kind not in _SERVED:
        reading.problems.append(
            Problem(
                f"{kind!r} is not served",
                str(path),
                "distributed_type",
                f"use one of {', '.join(_SERVED)}",
            )
        )
    for key in ("num_processes", "num_machines"):
        if content.get(key) is not None:
            yield key, content[key]
    if kind == _FSDP:
        yield "fsdp_enable", True
        settings = content.get("fsdp_config") or {}
        if not isinstance(settings, dict):
            message = f"must be an object, not {type(settings).__name__}"
            reading.problems.append(Problem(message, str(path), "fsdp_config"))
            return
        unknown = sorted(settings.keys() - ShardingConfig.model_fields.keys())
        if unknown:
            reading.warnings.append(f"{path}: nothing reads {', '.join(unknown)}")
        yield from ((key, value) for key, value in settings.items() if key not in unknown and value not in (None, ""))


def _from_launcher() -> Iterator[tuple[str, Any]]:
    """Yield what `accelerate launch --use_fsdp` says to the processes that it starts."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1"):
        yield "fsdp_enable", True
        if frees := os.environ.get("FSDP_RESHARD_AFTER_FORWARD"):
            yield "fsdp_reshard_after_forward", frees
