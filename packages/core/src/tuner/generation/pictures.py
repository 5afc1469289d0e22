"""Making the pictures, and writing them with all that they were made with."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import tuner
from tuner.adapters.files import placed
from tuner.config.prompts import safe_name
from tuner.errors import Problem
from tuner.generation.choices import Choices, choose
from tuner.generation.model import Model, Prompt
from tuner.generation.request import GenerateRequest
from tuner.tracking.bars import Progress, hide_library_bars
from tuner.training.base_model import BaseIdentity
from tuner.training.session import quick_collections
from tuner.types import Conditioning
from tuner.validation.sampling import evaluating, sample_picture

METADATA_KEY = "tuner"
"""Name of the PNG text that holds the parameters as JSON."""


@quick_collections()
def generate(request: GenerateRequest, problems: Sequence[Problem] = ()) -> list[Path]:
    """Make pictures as a run makes its validation pictures, and return their files.

    Equal requests give equal bytes on the same machine.

    Args:
        request: What is asked for.
        problems: What was found wrong with it before; shown together with all that is found here.

    Raises:
        ConfigError: The request cannot be served; nothing was loaded.
        TunerError: Weights are missing or do not fit, the family refuses to sample, or a picture is not finite.
    """
    choices = choose(request, problems)
    hide_library_bars()
    device = Accelerator(mixed_precision="no").device
    model = Model(request, choices, device)
    base = model.base()
    prompts: dict[str, Prompt] = {
        nickname: (prompt, "caption" if prompt else "unconditional") for nickname, prompt in request.prompts.items()
    }
    against: Prompt | None = (choices.negative, "negative") if choices.guidance > 1 else None
    encoded = model.encode([*prompts.values(), *([against] if against else [])])
    denoiser, sampler = model.open()

    def on_device(prompt: Prompt) -> Conditioning:
        return {name: tensor.to(device) for name, tensor in encoded[prompt].items()}

    jobs = [
        (nickname, prompt, size, choices.seed + number)
        for nickname, prompt in prompts.items()
        for size in choices.sizes
        for number in range(request.number)
    ]
    files: list[Path] = []
    progress = Progress(len(jobs) * choices.steps, "pictures", "step")
    with evaluating(denoiser), _counting(sampler.pipeline.scheduler, progress):
        for nickname, prompt, (width, height), seed in jobs:
            picture = sample_picture(
                sampler,
                on_device(prompt),
                on_device(against) if against else None,
                width=width,
                height=height,
                steps=choices.steps,
                guidance=choices.guidance,
                seed=seed,
            )
            parameters = _parameters(request, choices, base, prompt[0], (width, height), seed)
            name = f"{safe_name(nickname)}_{seed}_{width}x{height}"
            files.append(write_picture(request.output, name, picture, parameters))
            progress.advance_to(len(files) * choices.steps)
    progress.close()
    return files


def write_picture(folder: Path, name: str, picture: Image.Image, parameters: Mapping[str, Any]) -> Path:
    """Write a PNG with its parameters under a name that is still free, and return its file."""
    information = PngInfo()
    information.add_itxt(METADATA_KEY, json.dumps(parameters, sort_keys=True, ensure_ascii=False))
    target, number = folder / f"{name}.png", 1
    while target.exists():
        number += 1
        target = folder / f"{name}_{number}.png"
    with placed(target) as aside:
        picture.save(aside, format="PNG", pnginfo=information)
    return target


@contextmanager
def _counting(scheduler: Any, progress: Progress) -> Iterator[None]:
    """Show each step of a scheduler while pipelines use it inside the block."""
    step: Callable[..., Any] = scheduler.step
    taken = 0

    @functools.wraps(step)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal taken
        taken += 1
        progress.advance_to(taken)
        return step(*arguments, **named)

    scheduler.step = counted
    try:
        yield
    finally:
        del scheduler.step


def _parameters(
    request: GenerateRequest, choices: Choices, base: BaseIdentity, prompt: str, size: tuple[int, int], seed: int
) -> dict[str, Any]:
    """Return all that a picture was made with; no path."""
    trained, entry = choices.trained, choices.family.entry
    parameters: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": choices.negative if choices.guidance > 1 else None,
        "seed": seed,
        "steps": choices.steps,
        "guidance": choices.guidance,
        "width": size[0],
        "height": size[1],
        "model_family": choices.family.facts.name,
        "base_model": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "precision": choices.precision.mixed_precision,
        "quantised": choices.stored[0].scheme.name if choices.stored else None,
        "versions": {
            "tuner": tuner.__version__,
            entry.package: entry.version,
            **{name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        },
    }
    if trained is not None:
        parameters["trained"] = {
            "file": (trained.adapter or trained.denoiser or trained.pipeline or trained.path).name,
            "sha256": _sha256(trained.adapter) if trained.adapter else None,
            "weights": "ema" if trained.average else choices.provenance.weights,
            "step": choices.provenance.step,
            "strength": request.strength if trained.adapter else None,
            "merged": request.merge,
        }
    return parameters


@functools.cache
def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
