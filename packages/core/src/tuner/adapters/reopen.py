"""Loading a saved adapter as its users will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.utils.peft_utils import get_peft_kwargs
from lycoris.modules.full import FullModule
from lycoris.wrapper import LycorisNetwork, create_lycoris_from_weights
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from torch import Tensor, nn

from tuner.adapters.applied import Applied, AppliedLora, AppliedLycoris
from tuner.adapters.base import device_of
from tuner.adapters.lokr import quiet, use_bypass
from tuner.adapters.saved import SavedAdapter, open_saved
from tuner.errors import ExportError

_ADAPTER = "reopened"


def load_exported(path: Path, denoiser: nn.Module, device: torch.device | None = None) -> int:
    """Apply a saved adapter as `apply_saved`, and return the number of its tensors."""
    return apply_saved(path, denoiser, device).tensors


def apply_saved(path: Path, denoiser: nn.Module, device: torch.device | None = None) -> Applied:
    """Apply a saved adapter to a denoiser that has none, with the loader of the format's own library.

    Args:
        path: The file, or the folder that holds `pytorch_lora_weights.safetensors`.
        denoiser: A base model. Changed in place.
        device: Where the denoiser computes, if its weights wait elsewhere.

    Returns:
        The adapter. All tensors of the file were loaded.

    Raises:
        ExportError: The file is missing or damaged, or some of its tensors fit no layer of this denoiser.
    """
    saved = open_saved(path)
    if saved.lora_type is None:
        raise ExportError(
            f"{saved.file} holds no adapter of a known format; of {len(saved.shapes)} tensors the first is "
            f"{next(iter(saved.shapes), 'none')}\n    -> give a LoRA or LyCORIS file"
        )
    tensors = saved.tensors()
    if saved.lora_type == "lycoris":
        settings = saved.settings()
        network = _load_lycoris(tensors, settings, denoiser, device or device_of(denoiser))
        loaded = {f"{module.lora_name}.{key}" for module in network.loras for key in module.custom_state_dict()}
        applied: Applied = AppliedLycoris(denoiser, len(tensors), network, settings.get("multiplier", 1.0))
    else:
        loaded = _load_standard(saved, tensors, denoiser)
        applied = AppliedLora(denoiser, len(tensors), _ADAPTER)
    if idle := sorted(tensors.keys() - loaded):
        raise ExportError(
            f"{saved.file}: {len(idle)} of {len(tensors)} tensors match no layer of {type(denoiser).__name__}, such as "
            f"{', '.join(idle[:3])}; use the model family and flavour that the adapter was trained on"
        )
    return applied


def _load_lycoris(
    tensors: dict[str, Tensor], config: dict[str, Any], denoiser: nn.Module, device: torch.device
) -> LycorisNetwork:
    """Apply a LyCORIS file and return the network."""
    with quiet():
        network, _ = create_lycoris_from_weights(config.get("multiplier", 1.0), None, denoiser, weights_sd=tensors)
    bypass = config.get("bypass_mode", next(denoiser.parameters()).dtype != torch.float32)
    for module in network.loras:
        if bypass and not isinstance(module, FullModule):
            use_bypass(module)
    network.to(device).requires_grad_(False)
    network.apply_to()
    return network


def _load_standard(saved: SavedAdapter, tensors: dict[str, Tensor], denoiser: nn.Module) -> set[str]:
    """Apply a LoRA file and return the names of the tensors that found a layer."""
    file, prefix = saved.file, saved.prefix
    try:
        if hasattr(denoiser, "load_lora_adapter"):
            denoiser.load_lora_adapter(file.parent, prefix=prefix, weight_name=file.name, adapter_name=_ADAPTER)  # type: ignore[operator]
        else:
            own = {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}
            _inject(own, saved.settings(), denoiser)
    except (RuntimeError, ValueError, LookupError) as error:  # the libraries', for layers of other sizes or names
        raise ExportError(
            f"{file} does not fit {type(denoiser).__name__}: {error}; use the model family and flavour that the "
            "adapter was trained on"
        ) from error
    denoiser.requires_grad_(False).train(denoiser.training)
    if not hasattr(denoiser, "peft_config"):  # diffusers found nothing to load
        return set()
    return {f"{prefix}.{name}" for name in get_peft_model_state_dict(denoiser, adapter_name=_ADAPTER)}


def _inject(tensors: dict[str, Tensor], settings: dict[str, Any], denoiser: nn.Module) -> None:
    """Apply a LoRA by PEFT alone, as diffusers does where it gives the network a loader."""
    if not settings:
        ranks = {name: tensor.shape[1] for name, tensor in tensors.items() if name.endswith("lora_B.weight")}
        settings = get_peft_kwargs(ranks, None, tensors, is_unet=False)
    inject_adapter_in_model(LoraConfig(**settings), denoiser, adapter_name=_ADAPTER, state_dict=tensors)
    set_peft_model_state_dict(denoiser, tensors, adapter_name=_ADAPTER)
