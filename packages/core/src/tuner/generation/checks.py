"""What can be wrong with a request for pictures, as far as it shows before a model is looked at."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from tuner.errors import Problem
from tuner.generation.request import GenerateRequest
from tuner.generation.trained import Trained

_LINE = "command line"
_SEEDS = 2**63
"""Seeds that torch takes, from 0."""


def out_of_range(request: GenerateRequest, problems: Sequence[Problem]) -> Iterator[Problem]:
    """Say what is wrong with a request whatever it is for."""
    if not request.prompts and not any(problem.key == "prompts" for problem in problems):
        yield Problem("no prompt is given", _LINE, "prompt", "give --prompt TEXT or --prompts FILE")
    for key, value, least in (("number", request.number, 1), ("steps", request.steps, 1), ("seed", request.seed, 0)):
        if value is not None and value < least:
            yield Problem(f"is {value} and must be at least {least}", _LINE, key)
    if request.seed is not None and request.seed + request.number > _SEEDS:
        yield Problem(f"is {request.seed}, and seeds end at {_SEEDS - 1}", _LINE, "seed")
    if request.guidance is not None and not 0 <= request.guidance < math.inf:
        yield Problem(f"is {request.guidance:g} and must be a number of at least 0", _LINE, "guidance")
    if not math.isfinite(request.strength):
        yield Problem(f"is {request.strength:g} and must be a finite number", _LINE, "strength")
    place = request.output.absolute()
    there = next((folder for folder in (place, *place.parents) if os.path.lexists(folder)), place)
    if not there.is_dir():
        yield Problem(f"{there} is no folder, so no picture can be written there", _LINE, "output", "name another one")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem(f"{there} may not be written to", _LINE, "output", "name another folder")


def conflicts(request: GenerateRequest, trained: Trained | None) -> Iterator[Problem]:
    """Say what does not go together with what is trained."""
    has_adapter = trained is not None and trained.adapter is not None
    if request.strength != 1 and not has_adapter:
        yield Problem("there is no adapter whose strength it could be", _LINE, "strength", "leave it out")
    if request.merge and not has_adapter:
        yield Problem("there is no adapter to merge", _LINE, "merge", "leave it out")
    if request.quantise != "no_change" and has_adapter and not request.merge:
        yield Problem(
            "quantising before merging would round the adapter's base away under it", _LINE, "quantise",
            "add --merge, which merges first",
        )  # fmt: skip
