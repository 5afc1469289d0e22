"""The attention kernel of the denoiser, chosen in diffusers' attention dispatcher."""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from torch import nn

from tuner.config.attention import DIFFUSERS, KERNELS
from tuner.config.loading import LoadedConfig
from tuner.errors import TunerError

logger = logging.getLogger(__name__)


def check_attention(loaded: LoadedConfig, device: torch.device) -> None:
    """Make sure that the device has the kernel, before anything is loaded.

    A family that cannot choose kernels has diffusers' own, which is an error in the log where another was asked for.

    Raises:
        TunerError: The device has not got it.
    """
    if reason := loaded.unread.get("attention_mechanism"):
        logger.error("attention_mechanism: %s; this run uses diffusers' own choice", reason)
    name = loaded.config.memory.attention_mechanism
    if name != DIFFUSERS and KERNELS[name].cuda and device.type != "cuda":
        available = ", ".join([DIFFUSERS, *(other for other, kernel in KERNELS.items() if not kernel.cuda)])
        raise TunerError(
            f"attention_mechanism: {name} needs a CUDA device, and this run is on the {device.type}\n"
            f"    -> use one of: {available}"
        )


def use_attention(denoiser: nn.Module, name: str, title: str) -> None:
    """Let the attention layers of the denoiser use a kernel.

    Where none of them goes through diffusers' dispatcher, that is an error in the log, and training goes on.

    Args:
        denoiser: The network.
        name: diffusers, or a key of `KERNELS`.
        title: The family's name for people.
    """
    if name == DIFFUSERS:
        return
    network: Any = denoiser
    if not any(map(_dispatches, denoiser.modules())):
        logger.error(
            "attention_mechanism %s has no effect: %s's layers do not let diffusers choose their kernel", name, title
        )
        return
    network.set_attention_backend(KERNELS[name].backend)


def _dispatches(module: nn.Module) -> bool:
    """Whether a layer hands its attention to diffusers' dispatcher, which its processor's file then has imported."""
    processor = getattr(module, "processor", None)
    return processor is not None and hasattr(sys.modules[type(processor).__module__], "dispatch_attention_fn")
