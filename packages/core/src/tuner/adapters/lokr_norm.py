"""Starting LoKr layers from noise of the size of their base weights instead of from nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lycoris.modules.lokr import LokrModule
from torch import Tensor

from tuner.adapters.lycoris_layers import Layer
from tuner.errors import ConfigError, Problem
from tuner.quantisation.storing import dequantised_weight
from tuner.randomness import normal_tensor


@torch.no_grad()
def init_lokr_norm(layers: Iterable[tuple[Layer, LokrModule]], norm: float, seed: int, file: str) -> None:
    """Set the first values of fresh LoKr layers: w1 to ones, w2 to noise like the base weight W.

    People describe w2 as standard normal noise z, rescaled to W's norm, then to W's standard deviation, then recentred
    on W's mean, and multiplied by `norm`. Each rescaling undoes the one before, so the norm drops out, and what is
    computed is the closed form

        w2 = norm * ((z - mean(z)) * std(W) / std(z) + mean(W)),

    whose standard deviation is norm * std(W) and whose mean is norm * mean(W), both exactly. Deviations are those of
    samples (divided by n - 1). z depends on the seed and the layer's name alone and is drawn on the CPU.

    The adapter then adds kron(w1, w2), so the first pictures differ slightly from the base model's. With `use_scalar`
    the trained scalar still starts from 0, so they do not.

    Args:
        layers: The layers and their adapters.
        norm: Share of the base weights' deviation and mean, >= 0.
        seed: The run's seed.
        file: The LyCORIS file, for messages.

    Raises:
        ConfigError: A layer has a low-rank matrix.
    """
    layers = list(layers)
    _refuse_low_rank(layers, file)
    for layer, module in layers:
        noise = normal_tensor(module.lokr_w2.shape, seed, "lokr norm", sample=layer.name)
        module.lokr_w1.fill_(1)
        module.lokr_w2.copy_(_like(dequantised_weight(module.org_module[0]), noise) * norm)


def _like(weight: Tensor, noise: Tensor) -> Tensor:
    """Return noise with the standard deviation and mean of a weight."""
    # In float64, so that every device rounds to the same statistics.
    std, mean = (value.item() for value in torch.std_mean(weight.detach().double()))
    return (noise - noise.mean()) * (std / noise.std()) + mean


def _refuse_low_rank(layers: list[tuple[Layer, LokrModule]], file: str) -> None:
    low = [(layer, module) for layer, module in layers if not (module.use_w1 and module.use_w2)]
    if not low:
        return
    layer, module = low[0]
    matrix = "lokr_w2_a" if module.use_w1 else "lokr_w1_a"
    needed = max(_sufficient_rank(module) for _, module in low)
    message = (
        f"it needs unfactorised matrices, and {len(low)} of {len(layers)} layers have low-rank ones, the first is "
        f"{layer.name} ({matrix})"
    )
    remedy = f"set full_matrix to true or linear_dim to {needed} or more in {file}, or leave it out"
    raise ConfigError([Problem(message, key="init_lokr_norm", remedy=remedy)])


def _sufficient_rank(module: LokrModule) -> int:
    """Return the rank from which on LyCORIS factorises neither matrix: half the larger side of the second."""
    rows, columns = module.lokr_w1.shape if module.use_w1 else (len(module.lokr_w1_a), module.lokr_w1_b.shape[1])
    side = max(module.shape[0] // rows, module.shape[1] // columns)
    return -(-side // 2)
