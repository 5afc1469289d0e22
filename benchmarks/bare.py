"""The bare loop: what anyone would write in torch for the same work, with the data already in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from models import FAMILIES
from tuner.adapters.create import create_trainable
from tuner.config import RunConfig
from tuner.config.loading import LoadedConfig
from tuner.config.optimizers import find_optimizer


@dataclass(frozen=True)
class BareBatch:
    """Clean latents and conditioning on the CPU."""

    latents: Tensor
    conditioning: dict[str, Tensor]


class BareLoop:
    """Trains the same weights with the same optimizer on `batches`, round and round.

    Args:
        loaded: The configuration that the product trains by.
        denoiser: A network of its own, on its device.
        batches: The data.
        shift: Shift of sigma.
    """

    def __init__(
        self, loaded: LoadedConfig, denoiser: torch.nn.Module, batches: Sequence[BareBatch], shift: float
    ) -> None:
        config: RunConfig = loaded.config
        self._denoiser = denoiser.train()
        self._velocity = FAMILIES[loaded.family.facts.name].velocity
        self._batches = batches
        self._shift = shift
        first = next(denoiser.parameters())
        self._device, self._dtype = first.device, first.dtype
        trainable = create_trainable(
            model_type=config.model.model_type,
            adapter=config.adapter,
            lycoris=config.lycoris,
            facts=loaded.family.facts,
            denoiser=denoiser,
            dtype=self._dtype,
            seed=1,
        )
        self._trainable = trainable
        self._parameters = [parameter for _, parameter in trainable.named_parameters()]
        optimisation = config.optimisation
        spec = optimisation.optimizer_spec
        made = find_optimizer(spec.path)
        self._optimizer = made(self._parameters, lr=optimisation.learning_rate, **spec.defaults)
        self._clip = clip_grad_norm_ if optimisation.grad_clip_method == "norm" else clip_grad_value_
        self._limit = optimisation.max_grad_norm

    def step(self, number: int) -> Tensor:
        """Take an optimizer step and return its loss, on the device."""
        batch = self._batches[number % len(self._batches)]
        latents = batch.latents.to(self._device)
        conditioning = {name: tensor.to(self._device) for name, tensor in batch.conditioning.items()}
        sigma = torch.sigmoid(torch.randn(len(latents), device=self._device))
        sigma = self._shift * sigma / (1 + (self._shift - 1) * sigma)
        noise = torch.randn_like(latents)
        x = torch.lerp(latents, noise, sigma.view(-1, *[1] * (latents.ndim - 1))).to(self._dtype)
        velocity = self._velocity(self._denoiser, x, sigma, conditioning)
        loss = torch.nn.functional.mse_loss(velocity.float(), noise - latents)
        loss.backward()
        self._clip(self._parameters, self._limit)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()
