"""Rescaled guidance: strong guidance without its glare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tuner.types import Guidance


def rescale(guided: Tensor, prompt: Tensor, share: float) -> Tensor:
    """Bring a guided velocity back towards the spread that the prompt's own velocity has.

    Lin et al. 2023 (arXiv 2305.08891), equations 15 and 16: share * (guided * std(prompt) / std(guided)) +
    (1 - share) * guided, with each sample's standard deviations over all its values.

    Args:
        guided: Guided velocities, batch first.
        prompt: Velocities of the prompt alone, of the same shape.
        share: In [0, 1]; 0 changes nothing.
    """
    dims = tuple(range(1, guided.ndim))
    spread = prompt.std(dim=dims, keepdim=True)
    guided_spread = guided.std(dim=dims, keepdim=True).clamp_min(torch.finfo(guided.dtype).tiny)
    return guided * (share * spread / guided_spread + 1 - share)


@contextmanager
def rescaled_guidance(denoiser: nn.Module, guidance: Guidance, *, scale: float, share: float) -> Iterator[None]:
    """Let whatever samples with the denoiser inside the block get rescaled guidance.

    Pipelines combine the denoiser's two answers themselves. So the answer to the negative prompt is replaced by the
    one from which a pipeline computes the rescaled velocity; no pipeline has to know of it.

    Args:
        denoiser: The network that the pipeline calls; its output is the velocity or its negative.
        guidance: How the pipeline asks it, and combines the answers.
        scale: Guidance scale; at most 1 is no guidance, so nothing is rescaled.
        share: See `rescale`.
    """
    if scale <= 1 or not share:
        yield
        return
    handle = denoiser.register_forward_hook(_Rescaling(guidance, scale - guidance.neutral_scale, share))
    try:
        yield
    finally:
        handle.remove()


class _Rescaling:
    """A forward hook. Where the two prompts have a call each, it waits for the second with the first one's answer."""

    def __init__(self, guidance: Guidance, strength: float, share: float) -> None:
        self._order = guidance.order
        self._strength = strength
        self._share = share
        self._waiting: Tensor | None = None

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        raw: Tensor = output[0]
        if self._order == "two_calls":
            if self._waiting is None:
                self._waiting = raw
                return None
            prompt, self._waiting = self._waiting, None
            return _with_first(output, self._replacement(prompt, raw))
        first, second = raw.chunk(2)
        if self._order == "prompt_first":
            return _with_first(output, torch.cat([first, self._replacement(first, second)]))
        return _with_first(output, torch.cat([self._replacement(second, first), second]))

    def _replacement(self, prompt: Tensor, negative: Tensor) -> Tensor:
        """Solve c + g * (c - u) = rescaled for u, where c is the prompt's answer and g the strength."""
        c, u = prompt.float(), negative.float()
        rescaled = rescale(c + self._strength * (c - u), c, self._share)
        return (c - (rescaled - c) / self._strength).to(negative.dtype)


def _with_first(output: Any, first: Tensor) -> Any:
    """Return a network's output, a tuple or one of diffusers' output classes, with another first element."""
    if type(output) is tuple:
        return (first, *output[1:])
    names = list(output.keys())
    return type(output)(**{**output, names[0]: first})
