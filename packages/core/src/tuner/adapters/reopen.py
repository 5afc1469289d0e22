"""Loading a saved adapter as its users will."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils.peft_utils import get_peft_kwargs
from lycoris.wrapper import create_lycoris_from_weights
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tuner.adapters.base import device_of
from tuner.adapters.files import WEIGHT_FILE
from tuner.adapters.lokr import quiet, use_bypass
from tuner.adapters.lycoris import METADATA_KEY as LYCORIS_KEY
from tuner.adapters.standard import METADATA_KEY as LORA_KEY
from tuner.errors import ExportError

ValueT = TypeVar("ValueT")

_ADAPTER = "reopened"


def load_exported(path: Path, denoiser: nn.Module) -> int:
    """Apply a saved adapter to a denoiser that has none, with the loader of the format's own library.

    Args:
        path: The file, or the folder that holds `pytorch_lora_weights.safetensors`.
        denoiser: A base model. Changed in place.

    Returns:
        The number of tensors that were loaded, which is that of the file.

    Raises:
        ExportError: The file is missing or damaged, or some of its tensors fit no layer of this denoiser.
    """
    file = path / WEIGHT_FILE if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"{file} cannot be read as a safetensors file: {error}; give an adapter's file or folder"
        ) from error
    is_lycoris = LYCORIS_KEY in metadata or any(name.startswith("lycoris_") for name in tensors)
    if is_lycoris:
        loaded = _load_lycoris(tensors, metadata, denoiser)
    else:
        loaded = _load_standard(file, tensors, metadata, denoiser)
    if idle := sorted(tensors.keys() - loaded):
        raise ExportError(
            f"{file}: {len(idle)} of {len(tensors)} tensors match no layer of {type(denoiser).__name__}, such as "
            f"{', '.join(idle[:3])}; use the model family and flavour that the adapter was trained on"
        )
    return len(tensors)


def _load_lycoris(tensors: dict[str, Tensor], metadata: dict[str, str], denoiser: nn.Module) -> set[str]:
    """Apply a LyCORIS file and return the names of the tensors that found a layer."""
    config = json.loads(metadata.get(LYCORIS_KEY, "{}"))
    with quiet():
        network, _ = create_lycoris_from_weights(config.get("multiplier", 1.0), None, denoiser, weights_sd=tensors)
    bypass = config.get("bypass_mode", next(denoiser.parameters()).dtype != torch.float32)
    for module in network.loras:
        if bypass:
            use_bypass(module)
    network.to(device_of(denoiser)).requires_grad_(False)
    network.apply_to()
    return {f"{module.lora_name}.{key}" for module in network.loras for key in module.custom_state_dict()}


def _load_standard(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str], denoiser: nn.Module) -> set[str]:
    """Apply a LoRA file and return the names of the tensors that found a layer."""
    prefix = next(iter(tensors), "").partition(".")[0]
    try:
        if hasattr(denoiser, "load_lora_adapter"):
            denoiser.load_lora_adapter(file.parent, prefix=prefix, weight_name=file.name, adapter_name=_ADAPTER)  # type: ignore[operator]
        else:
            _inject(_without(prefix, tensors), _without(prefix, _lora_settings(metadata)), denoiser)
    except (RuntimeError, ValueError) as error:  # what the libraries raise for layers of other sizes or names
        raise ExportError(
            f"{file} does not fit {type(denoiser).__name__}: {error}; use the model family and flavour that the "
            "adapter was trained on"
        ) from error
    denoiser.requires_grad_(False).train(denoiser.training)
    return {f"{prefix}.{name}" for name in get_peft_model_state_dict(denoiser, adapter_name=_ADAPTER)}


def _inject(tensors: dict[str, Tensor], settings: dict[str, Any], denoiser: nn.Module) -> None:
    """Apply a LoRA by PEFT alone, as diffusers does where it gives the network a loader."""
    if not settings:
        ranks = {name: tensor.shape[1] for name, tensor in tensors.items() if name.endswith("lora_B.weight")}
        settings = get_peft_kwargs(ranks, None, tensors, is_unet=False)
    inject_adapter_in_model(LoraConfig(**settings), denoiser, adapter_name=_ADAPTER, state_dict=tensors)
    set_peft_model_state_dict(denoiser, tensors, adapter_name=_ADAPTER)


def _lora_settings(metadata: dict[str, str]) -> dict[str, Any]:
    """Return the LoRA's configuration as the file has it; empty if it has none."""
    return json.loads(metadata.get(LORA_KEY, "{}"))


def _without(prefix: str, values: dict[str, ValueT]) -> dict[str, ValueT]:
    return {name.removeprefix(f"{prefix}."): value for name, value in values.items()}
