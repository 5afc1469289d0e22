"""What a file of weights says of itself: its tensors and where it comes from, read from its header without torch.

The format of safetensors: 8 bytes with the header's length (little-endian), the header as JSON, the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import WeightsFileError

_LENGTH = 8
_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""

SETTINGS_KEY = "settings"
"""Metadata entry that holds the run's settings as JSON, without paths and secrets."""


@dataclass(frozen=True)
class TensorFact:
    """A tensor as the header describes it.

    Attributes:
        name: Its name in the file.
        dtype: safetensors' name of its dtype, such as F32 or BF16.
        shape: Its shape.
        size: Bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileHeader:
    """The header of a safetensors file.

    Attributes:
        file: The file.
        metadata: Texts that it records, by key.
        tensors: What it holds, by name and in the order of the names.
    """

    file: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorFact]


@dataclass(frozen=True)
class Provenance:
    """Where exported weights come from. What a file does not say is None or empty.

    Attributes:
        family: Canonical name of the model family.
        family_package: Package of the family, with its version.
        tuner_version: Version of tuner that wrote the file.
        base_model: Hub repository of the base model, or the name of its folder.
        base_revision: The repository's commit.
        base_fingerprint: Hash over the contents of a local base model.
        data_fingerprint: Fingerprint of the data sets' plan.
        seed: Seed of the run.
        step: Optimizer steps taken.
        weights: "live", or "ema" for a moving average.
        settings: The run's settings, paths reduced to their last part.
    """

    family: str | None = None
    family_package: str | None = None
    tuner_version: str | None = None
    base_model: str | None = None
    base_revision: str | None = None
    base_fingerprint: str | None = None
    data_fingerprint: str | None = None
    seed: int | None = None
    step: int | None = None
    weights: str | None = None
    settings: Mapping[str, Any] | None = None

    def texts(self) -> dict[str, str]:
        """Return what is known as the metadata of a file."""
        values = {key: getattr(self, field) for key, field in _FIELDS.items()}
        texts = {key: str(value) for key, value in values.items() if value is not None}
        if self.settings is not None:
            texts[SETTINGS_KEY] = json.dumps(self.settings, sort_keys=True)
        return texts

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Provenance:
        """Read what `texts` wrote; entries that are damaged count as absent, as in files of other programs."""
        found: dict[str, Any] = {field: metadata[key] for key, field in _FIELDS.items() if key in metadata}
        for field in ("seed", "step"):
            text = str(found.pop(field, ""))
            if text.isdecimal():
                found[field] = int(text)
        try:
            settings = json.loads(metadata.get(SETTINGS_KEY, ""))
        except ValueError:
            settings = None
        return cls(**found, settings=settings if isinstance(settings, dict) else None)

    @property
    def is_known(self) -> bool:
        """Whether tuner wrote the file."""
        return self.family is not None and self.tuner_version is not None


_FIELDS = {
    "model_family": "family",
    "family_package": "family_package",
    "tuner_version": "tuner_version",
    "base_model": "base_model",
    "base_revision": "base_revision",
    "base_fingerprint": "base_fingerprint",
    "data_fingerprint": "data_fingerprint",
    "seed": "seed",
    "step": "step",
    "weights": "weights",
}
"""Key in a file's metadata -> field of `Provenance`."""


def read_header(file: Path) -> FileHeader:
    """Read and check the header of a safetensors file.

    Raises:
        WeightsFileError: The file is missing, is no safetensors file, or is cut off.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, size - _LENGTH):
                raise WeightsFileError(_broken(file, "its header is not there"))
            content = json.loads(opened.read(length).decode("utf-8"))
        metadata = {str(key): str(value) for key, value in content.pop("__metadata__", {}).items()}
        tensors = {name: _fact(name, entry) for name, entry in sorted(content.items())}
        end = max((int(entry["data_offsets"][1]) for entry in content.values()), default=0)
    except OSError as error:
        raise WeightsFileError(
            f"{file} cannot be read: {error.strerror}\n    -> name a file that exists and may be read"
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise WeightsFileError(_broken(file, "its header cannot be read")) from error
    if (present := size - _LENGTH - length) != end:
        raise WeightsFileError(_broken(file, f"its tensors should take {end:,} bytes, and there are {present:,}"))
    return FileHeader(file, metadata, tensors)


def _fact(name: str, entry: Mapping[str, Any]) -> TensorFact:
    start, end = entry["data_offsets"]
    return TensorFact(name, str(entry["dtype"]), tuple(int(side) for side in entry["shape"]), int(end) - int(start))


def _broken(file: Path, reason: str) -> str:
    return (
        f"{file} is no whole safetensors file: {reason}\n"
        "    -> copy or download it again; other formats can run code when they are opened and are not read"
    )
