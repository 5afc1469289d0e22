"""NVIDIA's guardrail around sampling.

diffusers' pipeline does not sample without a safety checker, since the weights' licence asks for one. The published
one is the package cosmos_guardrail, which is large and needs a GPU.
"""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from diffusers.utils import is_cosmos_guardrail_available

from tuner.errors import TunerError
from tuner.family.twins import is_twin
from tuner.types import Components

logger = logging.getLogger(__name__)

LICENCE = "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license"

Frames = npt.NDArray[np.uint8]
"""Pictures of shape (frames, height, width, 3)."""


class GuardrailError(TunerError):
    """Pictures that may not be made: no guardrail is installed, or it refuses the prompt."""


class Unchecked:
    """In the guardrail's place where none is needed: lets everything pass."""

    def to(self, device: Any) -> None:
        """Do nothing: there is nothing to move."""

    def check_text_safety(self, prompt: str) -> bool:
        """Let a prompt pass."""
        return True

    def check_video_safety(self, frames: Frames) -> Frames:
        """Let pictures pass."""
        return frames


class Guardrail:
    """The installed guardrail, for a training run: a picture that it refuses becomes a black one.

    Args:
        checker: A `cosmos_guardrail.CosmosSafetyChecker`.
    """

    def __init__(self, checker: Any) -> None:
        self._checker = checker

    def to(self, device: Any) -> None:
        """Move the guardrail's networks."""
        self._checker.to(device)

    def check_text_safety(self, prompt: str) -> bool:
        """Whether the guardrail lets a prompt pass."""
        return bool(self._checker.check_text_safety(prompt))

    def check_video_safety(self, frames: Frames) -> Frames:
        """Return the pictures with faces blurred, or black ones if they are refused."""
        checked: Frames | None = self._checker.check_video_safety(frames)
        if checked is None:
            logger.warning("the guardrail refused a picture; it is written as a black one")
            return np.zeros_like(frames)
        return checked


def create_guardrail(components: Components) -> Unchecked | Guardrail:
    """Choose what checks the pictures of a model.

    A twin needs no check: it is not NVIDIA's model, and what it draws is noise. The option turns the check off for
    any model.

    Raises:
        GuardrailError: The guardrail is needed, and not installed or broken.
    """
    options: Any = components.options
    if is_twin(components.denoiser) or options.cosmos2_sample_without_guardrail:
        return Unchecked()
    if not is_cosmos_guardrail_available():
        raise GuardrailError(
            f"{components.folder}: pictures of Cosmos2 are made behind NVIDIA's guardrail, as the weights' licence "
            f"asks ({LICENCE}), and the package cosmos_guardrail is not installed\n"
            "    -> pip install cosmos_guardrail; or make no pictures (validation_step_interval 0); or, if you answer "
            "for it, set cosmos2_sample_without_guardrail"
        )
    return _installed_guardrail()


@functools.cache
def _installed_guardrail() -> Guardrail:
    """Load the guardrail once: it has billions of weights."""
    try:
        return Guardrail(importlib.import_module("cosmos_guardrail").CosmosSafetyChecker())
    except Exception as error:  # it loads several models, of which each may fail in its own way
        raise GuardrailError(
            f"cosmos_guardrail is installed, but could not be loaded: {type(error).__name__}: {error}\n"
            "    -> mend that; its models are on the hub, and some ask you to accept their terms first"
        ) from error
