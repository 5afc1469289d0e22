"""Training all weights of the denoiser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor, nn
from torch.nn import Parameter

from tuner.adapters.base import Trainable
from tuner.adapters.files import placed, write_model
from tuner.errors import TunerError

METADATA_FILE = "training_metadata.json"


class FullTrainable(Trainable):
    """All weights of the denoiser, in the dtype in which it was loaded."""

    kind = "full"

    def __init__(self, denoiser: nn.Module, subfolder: str) -> None:
        super().__init__(denoiser)
        self._class = type(denoiser).__name__  # sharding gives it another one
        self._subfolder = subfolder
        denoiser.requires_grad_(True)

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """Return the denoiser's parameters under their own names."""
        return list(self.denoiser.named_parameters())

    def buffers(self) -> dict[str, Tensor]:
        """Return the denoiser's persistent buffers."""
        persistent = self.denoiser.state_dict()
        return {name: buffer for name, buffer in self.denoiser.named_buffers() if name in persistent}

    def export(self, folder: Path, metadata: Mapping[str, str], weights: Mapping[str, Tensor] | None = None) -> Path:
        """Write the denoiser in diffusers layout to the sub-folder that pipelines read it from."""
        target = folder / self._subfolder
        with placed(target) as aside:
            write_model(aside, self.denoiser, self._tensors(weights), metadata)
            self._correct(aside / "config.json")
            (aside / METADATA_FILE).write_text(json.dumps(dict(metadata), indent=2), encoding="utf-8")
        return target

    def disabled(self) -> AbstractContextManager[None]:
        """Refuse: the base model is gone."""
        raise TunerError(
            "model_type is full, which changes the base model itself, so what needs the base model beside the trained "
            "one cannot be had; train an adapter (model_type lora), or leave out regularisation data"
        )

    def set_strength(self, strength: float) -> None:
        """Refuse: there is no adapter."""
        raise TunerError(f"strength {strength} needs an adapter, but model_type is full; train with model_type lora")

    def description(self) -> str:
        """Say how many weights are trained."""
        return f"all weights of {self._class}: {self.parameter_count():,} parameters"

    def _tensors(self, weights: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return what the denoiser's files hold; parameters that share memory still do."""
        tensors: dict[str, Tensor] = self.denoiser.state_dict(keep_vars=True)
        if weights is not None:
            names = {parameter: name for name, parameter in self.named_parameters()}
            cast = {name: weights[name].to(parameter.dtype) for parameter, name in names.items()}
            tensors = {
                key: cast[names[tensor]] if isinstance(tensor, Parameter) else tensor for key, tensor in tensors.items()
            }
        return {key: tensor.detach() for key, tensor in tensors.items()}

    def _correct(self, config: Path) -> None:
        """Name the class as it was loaded, and not the folder that it came from: the file may be published."""
        content = json.loads(config.read_text(encoding="utf-8"))
        content.pop("_name_or_path", None)
        content["_class_name"] = self._class
        config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
