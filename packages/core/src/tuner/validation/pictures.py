"""A round of validation pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from tuner.config import RunConfig
from tuner.config.checks import aligned_size
from tuner.config.loading import LoadedConfig
from tuner.config.prompts import safe_name, unused_name
from tuner.config.validation import ValidationConfig
from tuner.errors import ConfigError, NonFiniteError, Problem
from tuner.types import Conditioning, FamilyFacts, Role, Sampler
from tuner.validation.picture_files import write_picture
from tuner.validation.previews import Previews
from tuner.validation.sampling import sample_picture

logger = logging.getLogger(__name__)


_COMPARABLE = {
    "validation_guidance",
    "validation_guidance_rescale",
    "validation_negative_prompt",
    "validation_num_inference_steps",
    "validation_seed",
}
"""Settings that must be equal for two pictures to differ by the model alone."""


@dataclass(frozen=True)
class PicturePrompt:
    """A prompt of which pictures are made.

    Attributes:
        nickname: Part of the file names.
        prompt: The prompt.
        role: Role that the prompt is encoded in.
        strength: Strength of the adapter; always 1 where all weights are trained.
    """

    nickname: str
    prompt: str
    role: Role = "caption"
    strength: float = 1.0


def picture_prompts(config: RunConfig) -> list[PicturePrompt]:
    """List the prompts of a run's pictures, each with a nickname of its own; none if the run makes no pictures."""
    validation = config.validation
    if not validation.validation_step_interval:
        return []
    has_adapter = config.model.model_type == "lora"
    usual = validation.validation_lycoris_strength if has_adapter else 1.0
    fixed = []
    if validation.validation_prompt:
        fixed.append(PicturePrompt("validation", validation.validation_prompt, strength=usual))
    if (fixed or config.prompts) and not validation.validation_disable_unconditional:
        fixed.append(PicturePrompt("unconditional", "", "unconditional", usual))
    taken = [prompt.nickname for prompt in fixed]
    prompts = []
    for nickname, prompt in config.prompts.items():
        taken.append(unused_name(safe_name(nickname), taken))
        strength = config.prompt_strengths.get(nickname, usual) if has_adapter else 1.0
        prompts.append(PicturePrompt(taken[-1], prompt, strength=strength))
    return prompts + fixed


def largest_size(config: RunConfig, facts: FamilyFacts) -> tuple[int, int]:
    """Return the (width, height) in pixels of the run's largest pictures."""
    sizes = [aligned_size(width, height, facts) for width, height in config.validation.sizes()]
    return max(sizes, key=lambda size: size[0] * size[1])


def check_sides(loaded: LoadedConfig, limit: int | None) -> None:
    """Check the sizes of a run's pictures against the longest side that its model takes, in pixels.

    Raises:
        ConfigError: A side is longer.
    """
    if limit is None or not picture_prompts(loaded.config):
        return
    sizes = [aligned_size(*size, loaded.family.facts) for size in loaded.config.validation.sizes()]
    if beyond := [f"{width}x{height}" for width, height in sizes if max(width, height) > limit]:
        key = "validation_resolution"
        given = loaded.given.get(key)
        message = f"{', '.join(beyond)} is too large: this model takes sides of at most {limit} pixels"
        raise ConfigError([Problem(message, given.origin if given else None, key, f"choose at most {limit}")])


def try_picture(
    sampler: Sampler,
    prompt: PicturePrompt,
    read_conditioning: Callable[[str, Role], Conditioning],
    *,
    config: RunConfig,
    facts: FamilyFacts,
) -> None:
    """Sample a picture of the largest size with two steps, as `make_pictures` does, and keep nothing of it."""
    validation = config.validation
    width, height = largest_size(config, facts)
    guided = validation.validation_guidance > 1
    # What comes of two steps is no picture, so it may well be non-finite.
    with suppress(NonFiniteError):
        sample_picture(
            sampler,
            read_conditioning(prompt.prompt, prompt.role),
            read_conditioning(validation.validation_negative_prompt, "negative") if guided else None,
            width=width,
            height=height,
            steps=min(2, validation.validation_num_inference_steps),
            guidance=validation.validation_guidance,
            seed=0,
        )


def make_pictures(
    sampler: Sampler,
    prompts: list[PicturePrompt],
    read_conditioning: Callable[[str, Role], Conditioning],
    *,
    config: RunConfig,
    facts: FamilyFacts,
    seed: int,
    folder: Path,
    prefix: str,
    at_strength: Callable[[float], AbstractContextManager[None]] | None = None,
    step: int,
    previews: Previews | None = None,
) -> dict[str, tuple[Path, ...]]:
    """Sample every prompt at every size and write the pictures.

    Args:
        sampler: The family's pipeline around the live denoiser.
        prompts: What to sample.
        read_conditioning: (prompt, role) -> conditioning with a batch dimension of 1, on the denoiser's device.
        config: The run's configuration.
        facts: The family's facts.
        seed: Of the pictures' noise, where the configuration names none of its own.
        folder: Where the pictures go.
        prefix: First part of the file names.
        at_strength: Gives the adapter a prompt's strength inside a block; None where strengths do not matter.
        step: Optimizer steps taken.
        previews: Show pictures while they are sampled.

    Returns:
        The files written, by nickname. A picture that came out non-finite is reported and left out.
    """
    validation = config.validation
    folder.mkdir(parents=True, exist_ok=True)
    negative = None
    if validation.validation_guidance > 1:
        negative = read_conditioning(validation.validation_negative_prompt, "negative")
    files: dict[str, tuple[Path, ...]] = {}
    for prompt in prompts:
        written: list[Path] = []
        for number, (wanted_width, wanted_height) in enumerate(validation.sizes()):
            width, height = aligned_size(wanted_width, wanted_height, facts)
            seen = previews.watching(sampler, step, prompt.nickname, prompt.prompt) if previews else nullcontext()
            try:
                with at_strength(prompt.strength) if at_strength else nullcontext(), seen:
                    picture = sample_picture(
                        sampler,
                        read_conditioning(prompt.prompt, prompt.role),
                        negative,
                        width=width,
                        height=height,
                        steps=validation.validation_num_inference_steps,
                        guidance=validation.validation_guidance,
                        seed=seed if validation.validation_seed is None else validation.validation_seed,
                    )
            except NonFiniteError as error:
                logger.warning("validation picture %s at %dx%d: %s", prompt.nickname, width, height, error)
                continue
            path = folder / f"{prefix}_{prompt.nickname}_{number}_{width}x{height}.png"
            written.append(write_picture(picture, path, _sampled_as(prompt, validation, seed)))
        files[prompt.nickname] = tuple(written)
    return files


def _sampled_as(prompt: PicturePrompt, validation: ValidationConfig, seed: int) -> str:
    """Name what a picture shows besides the model: pictures of equal size and name can be compared."""
    settings = validation.model_dump(mode="json", include=_COMPARABLE)
    return json.dumps([prompt.prompt, prompt.role, seed, settings], sort_keys=True)
