"""Loading what samples: first the encoders, for all prompts at once, then denoiser and codec with the adapter."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from tuner.adapters import apply_saved
from tuner.adapters.applied import Applied
from tuner.adapters.conversion import convert
from tuner.adapters.saved import open_saved
from tuner.errors import TunerError
from tuner.generation.choices import Choices
from tuner.generation.request import GenerateRequest
from tuner.plugins import create_manager
from tuner.training.base_model import BaseIdentity, base_identity
from tuner.training.casting import Dtypes, cast_operations
from tuner.training.codec_memory import spare_codec
from tuner.training.session import release_memory
from tuner.training.sources import fetch_parts
from tuner.training.storage import check_devices, store_components
from tuner.types import ComponentRequest, Components, Conditioning, FamilyFacts, Part, Role, Sampler

logger = logging.getLogger(__name__)

Prompt = tuple[str, Role]


class Model:
    """A model that makes pictures.

    Args:
        request: What is asked for.
        choices: The same with nothing left open.
        device: Where it computes.
    """

    def __init__(self, request: GenerateRequest, choices: Choices, device: torch.device) -> None:
        self._request, self._choices, self._device = request, choices, device
        self._hook: Any = create_manager(choices.family).hook
        self._dtypes = Dtypes.of(choices.precision, choices.family.facts)
        check_devices(choices.stored, device)

    def base(self) -> BaseIdentity:
        """Identify the base model, and warn if the adapter was trained on another one."""
        choices = self._choices
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuner"
        found = base_identity(choices.source, choices.family.facts, cache / "fingerprints.json")
        told = choices.provenance
        if choices.trained is None or choices.trained.pipeline or not (told.base_revision or told.base_fingerprint):
            return found
        if (found.revision, found.fingerprint) != (told.base_revision, told.base_fingerprint):
            logger.warning(
                "%s was trained on %s as it was then (%s), and this base model is another one (%s, %s)",
                choices.trained.path, told.base_model, told.base_revision or told.base_fingerprint,
                found.name, found.revision or found.fingerprint,
            )  # fmt: skip
        return found

    def encode(self, prompts: Iterable[Prompt]) -> Mapping[Prompt, Conditioning]:
        """Encode prompts one by one, on the CPU afterwards, and release the encoders."""
        components = self._load("text_encoders")
        encoded = {prompt: self._encode(components, *prompt) for prompt in dict.fromkeys(prompts)}
        del components
        release_memory()
        return encoded

    @torch.inference_mode()
    def _encode(self, components: Components, prompt: str, role: Role) -> Conditioning:
        found = self._hook.encode_prompt(components=components, prompts=[prompt], role=role)
        return {name: tensor.to("cpu") for name, tensor in found.items()}

    def open(self) -> tuple[nn.Module, Sampler]:
        """Load denoiser, codec and scheduler, put the adapter in, merge and quantise as asked.

        Returns:
            The denoiser, and the family's pipeline around it.

        Raises:
            TunerError: The adapter does not fit, or the family refuses to sample.
        """
        stored = self._choices.stored
        first = torch.device("cpu") if stored else self._device
        components = self._load("denoiser", device=first)
        assert components.denoiser is not None  # asked for, so the contract promises it
        self._put_trained_weights(components.denoiser)
        if stored:
            policy = self._hook.quantisation_policy(options=self._choices.options)
            store_components(components, stored, policy, via=first, device=self._device)
        rest = self._load("codec", "scheduler")
        components.codec, components.scheduler = rest.codec, rest.scheduler
        components.tokenizers = rest.tokenizers
        if components.codec is not None:
            spare_codec(components.codec, self._choices.memory)
        return components.denoiser, self._hook.validation_pipeline(components=components)

    def _put_trained_weights(self, denoiser: nn.Module) -> None:
        trained = self._choices.trained
        if trained is None:
            return
        if trained.average is not None:
            _load_average(trained.average, denoiser)
        if trained.adapter is not None:
            applied = _apply(trained.adapter, denoiser, self._choices.family.facts)
            logger.info("%s: all %d tensors are in use", trained.adapter, applied.tensors)
            applied.set_strength(self._request.strength)
            if self._request.merge:
                applied.merge()

    def _load(self, *parts: Part, device: torch.device | None = None) -> Components:
        choices, facts = self._choices, self._choices.family.facts
        folders = fetch_parts(choices.source, parts, facts)
        borrowed = dict(folders.borrowed)
        if choices.trained and choices.trained.denoiser:
            borrowed[facts.part_folders["denoiser"][0]] = choices.trained.denoiser
        request = ComponentRequest(
            folder=folders.root,
            borrowed=borrowed,
            parts=frozenset(parts),
            dtype=self._dtypes.compute,
            dtypes=self._dtypes.by_part(trains_denoiser=False),
            device=device or self._device,
            options=choices.options,
        )
        components: Components = self._hook.load_components(request=request)
        if components.denoiser is not None and self._dtypes.casts:
            cast_operations(components.denoiser, self._device, facts.exact_attention)
        return components


def _apply(file: Path, denoiser: nn.Module, facts: FamilyFacts) -> Applied:
    """Apply an adapter, in ComfyUI's format too, which no library loads into a denoiser of diffusers."""
    if not open_saved(file).has_original_names:
        return apply_saved(file, denoiser)
    with tempfile.TemporaryDirectory() as folder:
        return apply_saved(convert(file, Path(folder), "lycoris", facts), denoiser)


@torch.no_grad()
def _load_average(file: Path, denoiser: nn.Module) -> None:
    """Give all weights the values of a moving average, rounded to their dtype."""
    average, own = load_file(file), dict(denoiser.named_parameters())
    if average.keys() != own.keys() or any(average[name].shape != own[name].shape for name in own):
        raise TunerError(f"{file} does not fit {type(denoiser).__name__}\n    -> use the base model of its run")
    for name, parameter in own.items():
        parameter.copy_(average[name])
