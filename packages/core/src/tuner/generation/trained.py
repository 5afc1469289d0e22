"""What a path names: an adapter, a denoiser or a pipeline, and what its files say of their origin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuner.errors import TunerError
from tuner.provenance import Provenance, read_header
from tuner.types import FamilyFacts

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
_PIPELINE = "model_index.json"
_AVERAGE = Path("ema") / "average.safetensors"
_RECEIPT = "settings_receipt.json"


@dataclass(frozen=True)
class Trained:
    """Trained weights on disk.

    Attributes:
        path: As it was given.
        provenance: What they say of their origin; empty for files of other programs.
        adapter: The file of an adapter.
        denoiser: The folder of a denoiser, all of whose weights were trained.
        average: A moving average of all weights of the denoiser, by parameter name.
        pipeline: The folder of the whole pipeline that the denoiser belongs to.
    """

    path: Path
    provenance: Provenance
    adapter: Path | None = None
    denoiser: Path | None = None
    average: Path | None = None
    pipeline: Path | None = None

    def recorded_base(self) -> str | None:
        """Return the base model as the run's settings receipt names it, which lies beside or above an adapter."""
        start = self.adapter or self.denoiser
        for folder in list(start.resolve().parents)[:3] if start else ():
            receipt = folder / _RECEIPT
            if receipt.is_file():
                rows = {row["key"]: row["value"] for row in json.loads(receipt.read_text(encoding="utf-8"))}
                named = rows.get("pretrained_model_name_or_path")
                return str(named) if named else None
        return None


def find_trained(path: Path, weights: Literal["live", "ema"] | None) -> Trained:
    """Find out what a path names.

    Args:
        path: An adapter's file, or the folder of an adapter, a checkpoint, a run or a whole pipeline.
        weights: Which weights are wanted; None for the live ones, or those of a pipeline as they are.

    Raises:
        TunerError: There are no such weights there.
    """
    if path.is_file() and path.name != _PIPELINE:
        return _adapter(path, path, weights)
    if not path.is_dir():
        raise TunerError(f"{path} does not exist\n    -> name an adapter's file, or a folder that a run wrote")
    if (path / ADAPTER_FILE).is_file():
        return _adapter(path, path / ADAPTER_FILE, weights)
    if (path / _PIPELINE).is_file():
        return _pipeline(path, path, weights)
    if (path / "pipeline" / _PIPELINE).is_file():
        return _pipeline(path, path / "pipeline", weights)
    for folder in sorted(item for item in path.iterdir() if (item / "config.json").is_file()):
        found = _provenance(folder)
        if found.is_known:
            return _checkpoint(path, folder, found, weights)
    checkpoints = sorted(item.name for item in path.glob("checkpoint-*"))
    hint = (
        f"name one of its checkpoints ({', '.join(checkpoints)})" if checkpoints else "name a folder that a run wrote"
    )
    raise TunerError(f"{path} holds no adapter and no pipeline\n    -> {hint}")


def denoiser_provenance(folder: Path, facts: FamilyFacts) -> Provenance:
    """Return what the denoiser of a pipeline's folder says of its origin."""
    return _provenance(folder / facts.part_folders["denoiser"][0])


def _adapter(path: Path, live: Path, weights: Literal["live", "ema"] | None) -> Trained:
    file = live.parent / "ema" / live.name if weights == "ema" else live
    if not file.is_file():
        raise TunerError(
            f"{path} has no moving average: {file} does not exist\n    -> use the live weights, or train with use_ema"
        )
    provenance = Provenance.of(read_header(file).metadata)
    if weights and provenance.weights and provenance.weights != weights:
        raise TunerError(
            f"{file} holds the {_words(provenance.weights)}\n    -> leave --weights out, or name another file"
        )
    return Trained(path, provenance, adapter=file)


def _pipeline(path: Path, folder: Path, weights: Literal["live", "ema"] | None) -> Trained:
    found = [_provenance(item) for item in sorted(folder.iterdir()) if (item / "config.json").is_file()]
    provenance = next((item for item in found if item.is_known), Provenance())
    if weights and (held := provenance.weights or "live") != weights:
        raise TunerError(
            f"{folder} holds the {_words(held)}\n    -> leave --weights out, or name a checkpoint, which holds both"
        )
    return Trained(path, provenance, pipeline=folder)


def _checkpoint(path: Path, denoiser: Path, provenance: Provenance, weights: Literal["live", "ema"] | None) -> Trained:
    average = path / _AVERAGE if weights == "ema" else None
    if average and not average.is_file():
        raise TunerError(f"{path} has no moving average\n    -> use the live weights, or train with use_ema")
    return Trained(path, provenance, denoiser=denoiser, average=average)


def _provenance(folder: Path) -> Provenance:
    files = sorted(folder.glob("*.safetensors"))
    return Provenance.of(read_header(files[0]).metadata) if files else Provenance()


def _words(weights: str) -> str:
    return "moving average of the weights" if weights == "ema" else "live weights"
