"""The command `tuner explain`: what a file or folder of weights is and where it comes from. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuner.cli.weights_summary import WeightsSummary, summarise
from tuner.config.keys import all_settings
from tuner.errors import WeightsFileError
from tuner.provenance import FileHeader, Provenance, read_header

_ADAPTER = "pytorch_lora_weights.safetensors"
_LONGEST_TEXT = 100
"""Characters of an unknown entry that are shown."""


@dataclass(frozen=True)
class Explained:
    """One file of weights, or the files that a network's weights are split into.

    Attributes:
        path: The file, or the folder of the files.
        provenance: Where it comes from.
        summary: What it holds.
        other: Metadata that tuner did not write.
    """

    path: Path
    provenance: Provenance
    summary: WeightsSummary
    other: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "path": str(self.path),
            "provenance": asdict(self.provenance) if self.provenance.is_known else None,
            "weights": self.summary.as_json(),
            "other_metadata": dict(self.other),
        }

    def lines(self) -> Iterator[str]:
        """Yield lines for people."""
        yield str(self.path)
        for line in self.summary.lines():
            yield f"  {line}"
        yield from (f"  {line}" for line in _story(self.provenance))
        for key, value in self.other.items():
            text = " ".join(value.split())
            yield f"  {key}: {text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + '...'}"


def explain_weights(path: Path) -> list[Explained]:
    """Explain a file, or the weights in a folder: those of an adapter, a network or a whole pipeline.

    Raises:
        WeightsFileError: There is nothing to explain, or a file is damaged.
    """
    return [_explained(place, [read_header(file) for file in files]) for place, files in _weights_in(path).items()]


def print_explanation(path: Path, *, as_json: bool) -> None:
    """Print the explanation of a file or folder."""
    found = explain_weights(path)
    if as_json:
        print(json.dumps([item.as_json() for item in found], indent=2))
    else:
        print("\n\n".join("\n".join(item.lines()) for item in found))


def _weights_in(path: Path) -> dict[Path, list[Path]]:
    """Return the place of each set of weights -> its files."""
    if not path.is_dir():
        return {path: [path]}
    adapters = [file for file in (path / _ADAPTER, path / "ema" / _ADAPTER) if file.is_file()]
    if adapters:
        return {file: [file] for file in adapters}
    if not (path / "model_index.json").is_file() and (path / "pipeline" / "model_index.json").is_file():
        return _weights_in(path / "pipeline")
    networks = [path, *sorted(path.iterdir())]
    parts = {place: sorted(place.glob("*.safetensors")) for place in networks if (place / "config.json").is_file()}
    parts = {place: files for place, files in parts.items() if files}
    parts = parts or {file: [file] for file in sorted(path.glob("*.safetensors"))}
    if not parts:
        checkpoints = sorted(item.name for item in path.glob("checkpoint-*") if item.is_dir())
        named = f" ({', '.join(checkpoints)})" if checkpoints else ""
        raise WeightsFileError(
            f"{path} holds no safetensors weights\n"
            f"    -> name an adapter's file, a checkpoint folder{named}, or a folder in diffusers layout"
        )
    return parts


def _explained(place: Path, headers: list[FileHeader]) -> Explained:
    metadata = headers[0].metadata
    provenance = Provenance.of(metadata)
    own = provenance.texts() if provenance.is_known else {}
    other = {key: value for key, value in sorted(metadata.items()) if key not in own and key != "format"}
    if not provenance.is_known:
        provenance = Provenance()
    return Explained(place, provenance, summarise(fact for each in headers for fact in each.tensors.values()), other)


def _story(provenance: Provenance) -> Iterator[str]:
    if not provenance.is_known:
        yield "origin: not recorded; another program wrote it"
        return
    yield f"family: {provenance.family} ({provenance.family_package}), tuner {provenance.tuner_version}"
    exact = ""
    if provenance.base_revision:
        exact = f", revision {provenance.base_revision}"
    elif provenance.base_fingerprint:
        exact = f", a local folder with the fingerprint {provenance.base_fingerprint}"
    yield f"base model: {provenance.base_model}{exact}"
    average = " (moving average of the weights)" if provenance.weights == "ema" else ""
    yield f"step: {provenance.step}, seed {provenance.seed}{average}"
    yield f"data: fingerprint {provenance.data_fingerprint}"
    usual = {key: _recorded(field.get_default(call_default_factory=True)) for _, key, field in all_settings()}
    settings = provenance.settings or {}
    changed = {key: value for key, value in settings.items() if value != usual.get(key)}
    yield "settings other than their defaults:"
    for key, value in sorted(changed.items()):
        yield f"  {key}: {json.dumps(value, ensure_ascii=False)}"


def _recorded(default: Any) -> Any:
    """Return a default as files record it: lists instead of tuples, of paths and repositories the last part."""
    if isinstance(default, tuple):
        return list(default)
    return default.rpartition("/")[2] if isinstance(default, str) else default
