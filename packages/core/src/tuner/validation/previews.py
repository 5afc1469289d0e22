"""Previews: pictures that are estimated while they are sampled, by way of a tiny autoencoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from tuner.config import RunConfig
from tuner.config.previews import preview_autoencoder, preview_obstacle
from tuner.errors import TunerError
from tuner.events import Previewed
from tuner.types import FamilyFacts, Sampler
from tuner.validation.estimates import SamplingStep, watching_steps

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


class TinyDecoder:
    """Decodes latents roughly and quickly.

    Args:
        autoencoder: diffusers' `AutoencoderTiny`.
    """

    def __init__(self, autoencoder: Any) -> None:
        self._autoencoder = autoencoder

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Image.Image:
        """Decode the first of a batch of normalised latents, (B, C, H, W) or (B, C, 1, H, W), to an RGB picture."""
        autoencoder = self._autoencoder
        latents_BCHW = latents[:1, :, 0] if latents.ndim == 5 else latents[:1]
        z = latents_BCHW.to(autoencoder.device, autoencoder.dtype)
        z = z / autoencoder.config.scaling_factor + autoencoder.config.shift_factor
        pixels_CHW = autoencoder.decode(z, return_dict=False)[0][0].float()
        levels_HWC = ((pixels_CHW / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        return Image.fromarray(levels_HWC.cpu().numpy())


def load_tiny_decoder(name: str, channels: int, device: torch.device, dtype: torch.dtype) -> TinyDecoder:
    """Load a tiny autoencoder.

    Args:
        name: A folder, or a repository of the hub.
        channels: Channels of the latents that it must understand.
        device: Where it is put.
        dtype: Its dtype.

    Raises:
        TunerError: It cannot be had, or is for other latents.
    """
    from diffusers import AutoencoderTiny
    from huggingface_hub import snapshot_download

    try:
        local = Path(name).expanduser()
        folder = local if local.is_dir() else Path(snapshot_download(name, allow_patterns=list(_FILES)))
        autoencoder = AutoencoderTiny.from_pretrained(folder, use_safetensors=True, torch_dtype=dtype)
    except Exception as error:  # both libraries raise errors of many kinds
        reason = (str(error).splitlines() or [""])[0]
        raise TunerError(f"{name} cannot be loaded: {type(error).__name__}: {reason}") from error
    found = autoencoder.config.latent_channels
    if found != channels:
        raise TunerError(f"{name} is for latents of {found} channels, not {channels}")
    return TinyDecoder(autoencoder.to(device).eval().requires_grad_(False))


@dataclass
class Previews:
    """Shows pictures while they are sampled. The first failure is a warning, and the end of previews.

    Attributes:
        decoder: Turns latents into pictures; None once it has failed.
        every: Sampling steps between previews.
        tell: Hears of each.
    """

    decoder: TinyDecoder | None
    every: int
    tell: Callable[[Previewed], None]

    def watching(self, sampler: Sampler, step: int, nickname: str, prompt: str) -> AbstractContextManager[None]:
        """Show the picture that is sampled inside the block.

        Args:
            sampler: Samples it.
            step: Optimizer steps taken.
            nickname: The prompt's nickname.
            prompt: The prompt.
        """

        def show(taken: SamplingStep) -> None:
            if self.decoder is None:
                return
            try:
                picture = self.decoder.decode(taken.x0())
                self.tell(Previewed(step, nickname, prompt, taken.number, taken.steps, taken.sigma(), picture))
            except Exception as error:  # a preview is worth no run
                self._give_up(f"{type(error).__name__}: {error}")

        if self.decoder is None:
            return nullcontext()
        try:
            return watching_steps(sampler.pipeline.scheduler, show, self.every)
        except TunerError as error:
            self._give_up(str(error))
            return nullcontext()

    def _give_up(self, reason: str) -> None:
        self.decoder = None
        logger.warning("no preview could be made: %s\n    -> the run goes on without previews", reason)


def open_previews(
    config: RunConfig, facts: FamilyFacts, hook: Any, device: torch.device, dtype: torch.dtype
) -> Previews | None:
    """Load what previews need; None, with a warning, where they cannot be.

    Args:
        config: The run's configuration.
        facts: The family's facts.
        hook: The run's hooks, which hear of previews.
        device: Where latents are decoded.
        dtype: In which they are.
    """
    validation = config.validation
    name = preview_autoencoder(config, facts)
    # The receipt has told why, where something lacks.
    if not validation.validation_preview or name is None or preview_obstacle(config, facts):
        return None
    try:
        decoder = load_tiny_decoder(name, facts.latent_channels, device, dtype)
    except TunerError as error:
        logger.warning("the tiny autoencoder %s\n    -> the run goes on without previews", error)
        return None
    return Previews(decoder, validation.validation_preview_steps, lambda event: hook.previewed(event=event))
