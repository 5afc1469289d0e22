"""A model family as the proofs see it: its hooks, its twin, and inputs made for it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch.nn import functional as F

from tuner.flow import mix, velocity_target
from tuner.plugins import Family, create_manager
from tuner.randomness import normal_tensor
from tuner.types import Batch, ComponentRequest, Conditioning, Part, Role

if TYPE_CHECKING:
    import pluggy
    from torch import Tensor

    from tuner.types import Components, FamilyFacts, Prediction, Sampler

PARTS: tuple[Part, ...] = get_args(Part)

SHORT_PROMPT = "a cat"
LONG_PROMPT = "an old lighthouse on a rocky coast at dusk, waves breaking far below"
NEGATIVE_PROMPT = "blurry, dark"
PROMPTS = (LONG_PROMPT, SHORT_PROMPT, "three red boats", "")

_SEED = 20_240


@dataclass(frozen=True)
class FamilyUnderTest:
    """A family, its hooks and its twin. Everything runs in float32 on the CPU.

    Attributes:
        name: What the family was asked for by.
        family: The family.
        folder: Where its twin is, or is written by the first proof that needs it.
    """

    name: str
    family: Family
    folder: Path

    @cached_property
    def hooks(self) -> pluggy.HookRelay:
        """The family's hooks, through a plugin manager of its own."""
        return create_manager(self.family).hook

    @property
    def facts(self) -> FamilyFacts:
        """The family's data sheet."""
        return self.family.facts

    @cached_property
    def twin(self) -> Path:
        """Folder of the family's twin, written at the first call unless something is there."""
        if not self.folder.exists():
            try:
                self.hooks.make_twin(folder=self.folder)
            except BaseException:
                # The next proof shall meet the same failure, not half a twin.
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
        return self.folder

    @cached_property
    def components(self) -> Components:
        """All parts of the twin, shared by the proofs: whoever changes one puts it back."""
        return self.load(*PARTS)

    @property
    def side(self) -> int:
        """Side of a small square picture in pixels: allowed by the facts, and at least four tokens long."""
        alignment = self.facts.pixel_alignment
        least = 4 * self.facts.latent_stride * self.facts.patch_size
        return -(-least // alignment) * alignment

    def request(self, *parts: Part) -> ComponentRequest:
        """Return a request for `parts` of the twin with the family's default options."""
        return ComponentRequest(
            folder=self.twin,
            parts=frozenset(parts),
            dtype=torch.float32,
            device=torch.device("cpu"),
            options=self.facts.options(),
        )

    def load(self, *parts: Part) -> Components:
        """Load fresh copies of `parts`."""
        components: Components = self.hooks.load_components(request=self.request(*parts))
        return components

    def pictures(self, count: int, height: int, width: int) -> Tensor:
        """Return smooth random RGB pictures in [-1, 1], shape (count, 3, height, width)."""
        coarse = normal_tensor((count, 3, 8, 8), _SEED, "pictures")
        return torch.tanh(F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False))

    @torch.no_grad()
    def latents(self, count: int, height: int, width: int) -> Tensor:
        """Return the normalised latents of `pictures`."""
        codec = self.components.codec
        assert codec is not None, "load_components gave no codec"
        return codec.encode(self.pictures(count, height, width))

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal noise."""
        return normal_tensor(shape, _SEED, "noise")

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], role: Role = "caption") -> Conditioning:
        """Encode prompts with the twin's text encoders."""
        conditioning: Conditioning = self.hooks.encode_prompt(
            components=self.components, prompts=tuple(prompts), role=role
        )
        return conditioning

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) in pixels of a wide and of a tall picture that are only just not square."""
        longer = self.side + self.facts.pixel_alignment
        return (self.side, longer), (longer, self.side)

    def batch(
        self,
        sigmas: Sequence[float] = (0.5,),
        prompts: Sequence[str] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> Batch:
        """Return a noised batch with one sample per sigma.

        Args:
            sigmas: Share of noise of each sample, in [0, 1].
            prompts: One per sample; the first ones of `PROMPTS` if not given.
            shape: (height, width) in pixels; twice as wide as high if not given.
        """
        sigma = torch.tensor(sigmas, dtype=torch.float32)
        x0, conditioning = self.inputs(prompts if prompts is not None else PROMPTS[: len(sigmas)], shape)
        noise = self.noise(x0.shape)
        return Batch(mix(x0, noise, sigma), sigma, velocity_target(x0, noise), conditioning)

    def inputs(self, prompts: Sequence[str], shape: tuple[int, int] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a clean latent and the conditioning of each prompt, encoded once per session.

        Args:
            prompts: One per sample.
            shape: (height, width) in pixels; twice as wide as high if not given.
        """
        key = (tuple(prompts), shape or (self.side, 2 * self.side))
        if key not in self._inputs:
            self._inputs[key] = self.latents(len(prompts), *key[1]), self.encode(prompts)
        x0, conditioning = self._inputs[key]
        return x0.clone(), {name: tensor.clone() for name, tensor in conditioning.items()}

    @cached_property
    def _inputs(self) -> dict[tuple[tuple[str, ...], tuple[int, int]], tuple[Tensor, Conditioning]]:
        return {}

    def predict(self, batch: Batch, components: Components | None = None) -> Prediction:
        """Ask the family for the velocity of `batch`, of the shared components unless others are given."""
        prediction: Prediction = self.hooks.compute_loss(components=components or self.components, batch=batch)
        return prediction

    def sampler(self, components: Components | None = None) -> Sampler:
        """Return the family's validation pipeline, silenced."""
        sampler: Sampler = self.hooks.validation_pipeline(components=components or self.components)
        sampler.pipeline.set_progress_bar_config(disable=True)
        return sampler

    def sample(
        self,
        sampler: Sampler,
        noise: Tensor,
        *,
        steps: int,
        guidance: float,
        output_type: str,
        height: int,
        width: int,
    ) -> Any:
        """Sample one picture from fixed noise, with the long prompt and, under guidance, a negative one.

        Returns:
            The pipeline's images: a tensor for the output types `latent` and `pt`.
        """
        negative = self.encode([NEGATIVE_PROMPT], "negative") if guidance > 1 else None
        settings = {
            **sampler.arguments(self.encode([LONG_PROMPT]), negative),
            sampler.guidance_argument: guidance,
            "height": height,
            "width": width,
            "num_inference_steps": steps,
            "latents": noise.clone(),
            "output_type": output_type,
        }
        return sampler.pipeline(**settings).images


def rows(conditioning: Conditioning, index: slice) -> Conditioning:
    """Return some rows of a conditioning."""
    return {name: tensor[index] for name, tensor in conditioning.items()}


def single(batch: Batch, index: int) -> Batch:
    """Return one sample of a batch as a batch of one."""
    here = slice(index, index + 1)
    return Batch(batch.x[here], batch.sigma[here], batch.target[here], rows(batch.conditioning, here))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return max|actual - expected| / max|expected|; infinite where anything is not finite.

    Raises:
        AssertionError: The shapes differ.
    """
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)} where {tuple(expected.shape)} is due"
    difference = (actual.double() - expected.double()).abs().max()
    scale = expected.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    error = float(difference / scale)
    return error if error == error else float("inf")
