"""A round of validation pictures."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from tuner.config import RunConfig
from tuner.config.checks import aligned_size
from tuner.errors import NonFiniteError
from tuner.types import Conditioning, FamilyFacts, Role, Sampler
from tuner.validation.previews import Previews
from tuner.validation.sampling import sample_picture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PicturePrompt:
    """A prompt of which pictures are made.

    Attributes:
        nickname: Part of the file names.
        prompt: The prompt.
        role: Role that the prompt is encoded in.
    """

    nickname: str
    prompt: str
    role: Role = "caption"


def picture_prompts(config: RunConfig) -> list[PicturePrompt]:
    """List the prompts of a run's pictures; none if the run makes no pictures."""
    validation = config.validation
    if not validation.validation_step_interval:
        return []
    prompts = [PicturePrompt(safe_name(name), prompt) for name, prompt in config.prompts.items()]
    if validation.validation_prompt:
        prompts.append(PicturePrompt("validation", validation.validation_prompt))
    if prompts and not validation.validation_disable_unconditional:
        prompts.append(PicturePrompt("unconditional", "", "unconditional"))
    return prompts


def safe_name(nickname: str) -> str:
    """Turn a nickname into something that every file system accepts as part of a file name."""
    cleaned = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", nickname).strip(" .")
    return cleaned[:80] or "_"


def largest_size(config: RunConfig, facts: FamilyFacts) -> tuple[int, int]:
    """Return the (width, height) in pixels of the run's largest pictures."""
    sizes = [aligned_size(width, height, facts) for width, height in config.validation.sizes()]
    return max(sizes, key=lambda size: size[0] * size[1])


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
                with seen:
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
            written.append(folder / f"{prefix}_{prompt.nickname}_{number}_{width}x{height}.png")
            picture.save(written[-1])
        files[prompt.nickname] = tuple(written)
    return files
