"""What a saved adapter's file says of itself, read from its header alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from tuner.adapters.files import WEIGHT_FILE
from tuner.adapters.lycoris import METADATA_KEY as LYCORIS_KEY
from tuner.adapters.standard import METADATA_KEY as LORA_KEY
from tuner.errors import ExportError

ORIGINAL_PREFIX = "diffusion_model."
"""What ComfyUI puts before the original checkpoint's names."""


@dataclass(frozen=True)
class SavedAdapter:
    """A file whose header could be read.

    Attributes:
        file: The file.
        metadata: Texts that it records.
        shapes: The shape of each tensor by its name, in the order of the names.
    """

    file: Path
    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def lora_type(self) -> Literal["lycoris", "standard"] | None:
        """Whose format the file has; None if it is none that is known."""
        if LYCORIS_KEY in self.metadata or any(name.startswith("lycoris_") for name in self.shapes):
            return "lycoris"
        return "standard" if any(".lora_A." in name for name in self.shapes) else None

    @property
    def has_original_names(self) -> bool:
        """Whether layers have the names of the original checkpoint, as in ComfyUI's files."""
        return bool(self.shapes) and all(name.startswith(ORIGINAL_PREFIX) for name in self.shapes)

    @property
    def prefix(self) -> str:
        """The part of the model that a standard LoRA's names begin with."""
        return next(iter(self.shapes), "").partition(".")[0]

    def settings(self) -> dict[str, Any]:
        """Return the adapter's own settings, a LyCORIS file's content or PEFT's names; empty if none are recorded.

        Raises:
            ExportError: The record is damaged.
        """
        key = LYCORIS_KEY if self.lora_type == "lycoris" else LORA_KEY
        try:
            record = dict(json.loads(self.metadata.get(key, "{}")))
        except (ValueError, TypeError) as error:
            raise ExportError(f"{self.file}: {key!r} in its metadata is no JSON object; give another file") from error
        return {name.removeprefix(f"{self.prefix}."): value for name, value in record.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors, onto the CPU."""
        return load_file(self.file)


def open_saved(path: Path) -> SavedAdapter:
    """Read the header of an adapter's file.

    Args:
        path: The file, or the folder that holds `pytorch_lora_weights.safetensors`.

    Raises:
        ExportError: The file is missing or damaged.
    """
    file = path / WEIGHT_FILE if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as opened:
            names = sorted(opened.keys())
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in names}
            return SavedAdapter(file, opened.metadata() or {}, shapes)
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"{file} cannot be read as a safetensors file: {error}; give an adapter's file or folder"
        ) from error
