"""LyCORIS' LoKr modules, used so that they are exact: building, reloading, bypass, merging."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from lycoris.modules import make_module
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import Tensor, nn
from torch.nn import Parameter

from tuner.adapters.lycoris_layers import Layer
from tuner.config.lycoris import LayerSettings, LycorisConfig
from tuner.errors import ConfigError, Problem


@contextmanager
def quiet() -> Iterator[None]:
    """Silence LyCORIS' log, which reports ordinary choices as warnings on the standard output."""
    logger = logging.getLogger("LyCORIS")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def upstream_name(layer: str) -> str:
    """Return the name that LyCORIS gives the adapter of a layer, and the prefix of its keys in files."""
    return f"lycoris_{layer}".replace(".", "_")


def build_module(layer: Layer, config: LycorisConfig, file: str) -> LokrModule:
    """Make the adapter of a layer, not yet applied.

    Raises:
        ConfigError: The layer's settings need a rank and have none.
    """
    settings = layer.settings or LayerSettings()

    def chosen(key: str) -> object:
        own = getattr(settings, key)
        return getattr(config, key) if own is None else own

    rank, full = chosen("linear_dim"), chosen("full_matrix")
    if rank is None and not full:
        problem = f"full_matrix is false for layer {layer.name}, which needs linear_dim"
        raise ConfigError([Problem(problem, file=file, key="apply_preset", remedy="give linear_dim, such as 16")])
    return LokrModule(
        upstream_name(layer.name),
        layer.module,
        multiplier=config.multiplier,
        lora_dim=1 if rank is None else rank,
        alpha=chosen("linear_alpha"),
        factor=chosen("factor"),
        use_scalar=chosen("use_scalar"),
        decompose_both=chosen("decompose_both"),
        full_matrix=full,
    )


@torch.no_grad()
def saved_tensors(module: LokrModule) -> dict[str, Tensor]:
    """Return what upstream's format holds of a module: a trained scalar is folded into the first matrix."""
    tensors: dict[str, Tensor] = module.custom_state_dict()
    if isinstance(module.scalar, Parameter):
        first = "lokr_w1" if module.use_w1 else "lokr_w1_a"
        # Kept in float32, since the product would be rounded in a shorter format.
        tensors[first] = getattr(module, first).float() * module.scalar.float()
    return tensors


@torch.no_grad()
def load_saved_tensors(module: LokrModule, tensors: Mapping[str, Tensor]) -> None:
    """Copy what `saved_tensors` returned, under the names in a file, into a module of the same shapes."""
    for key in saved_tensors(module).keys() - {"alpha"}:
        getattr(module, key).copy_(tensors[f"{module.lora_name}.{key}"])
    module.scalar.fill_(1)


def reloads(module: LokrModule) -> bool:
    """Tell whether LyCORIS, which guesses the factor from the shapes that it finds in a file, gets this module back."""
    saved = saved_tensors(module)
    with quiet():
        try:
            again = make_module(
                LokrModule, [saved.get(key) for key in LokrModule.weight_list], "probe", module.org_module[0]
            )
        except (RuntimeError, AttributeError):
            return False
    back = saved_tensors(again)
    same_names = {*saved, "alpha"} == {*back, "alpha"}
    same = same_names and all(torch.equal(saved[key], back[key].to(saved[key])) for key in saved if key != "alpha")
    return same and bool(again.scale == module.scale)


def refuse_unreloadable(layers: list[tuple[Layer, LokrModule]], file: str) -> None:
    """Check one layer of each shape.

    Raises:
        ConfigError: Naming one layer of each shape that could be trained and saved, but not loaded again.
    """
    problems: dict[tuple[object, ...], Problem | None] = {}
    for layer, module in layers:
        key = (type(layer.module), tuple(module.shape), repr(layer.settings))
        if key not in problems:
            problems[key] = None if reloads(module) else _unreloadable(layer, module, file)
    if found := [problem for problem in problems.values() if problem]:
        raise ConfigError(found)


def _unreloadable(layer: Layer, module: LokrModule, file: str) -> Problem:
    size = "x".join(str(side) for side in module.shape)
    return Problem(
        f"LyCORIS could save layer {layer.name} ({size}) with these settings, but not load it again",
        file=file,
        key="factor",
        remedy="use another factor, such as 4 or -1, or name the layer in apply_preset.exclude_name",
    )


def use_bypass(module: LokrModule) -> None:
    """Make a module add its output to the layer's instead of rebuilding the layer's weight W.

    Rebuilding computes (W + dW) - W in the layer's own dtype, which in bfloat16 loses every dW below about W / 256.
    """
    module.bypass_mode = True
    layer = module.org_module[0]
    if getattr(layer, "groups", 1) > 1:
        # Upstream's bypass of convolutions knows no groups.
        module.bypass_forward_diff = partial(_rebuilt_difference, module)
    else:
        module.bypass_forward_diff = partial(_difference, module, module.bypass_forward_diff)


def _difference(module: LokrModule, upstream: Callable[..., Tensor], h: Tensor, scale: float = 1) -> Tensor:
    # Upstream cannot reshape an empty input, which the expert of a mixture gets that no token was sent to.
    return upstream(h, scale=scale) if h.numel() else _rebuilt_difference(module, h, scale)


def _rebuilt_difference(module: LokrModule, h: Tensor, scale: float = 1) -> Tensor:
    weight = module.get_weight(module.shape) * module.scalar * scale
    output: Tensor = module.op(h, weight.to(h), None, **module.kw_dict)
    return output


@torch.no_grad()
def merged_weight(module: LokrModule | LohaModule) -> Tensor:
    """Return W + dW of an adapted layer, computed in float32 and cast to W's dtype.

    Not upstream's `merge_to`, which applies the scale of low-rank matrices twice and ignores a trained scalar.
    """
    weight: Tensor = module.org_module[0].weight
    difference = in_float32(module, lambda: module.get_weight(weight.shape) * module.scalar)
    return (weight.float() + module.multiplier * difference).to(weight.dtype)


def in_float32(module: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
    """Compute with a module's parameters widened to float32, which changes none of them."""
    kept = [(parameter, parameter.data) for parameter in module.parameters()]
    try:
        for parameter, values in kept:
            parameter.data = values.float()
        return compute()
    finally:
        for parameter, values in kept:
            parameter.data = values
