"""The result of a run: written, re-opened in a fresh model and compared with the trained one."""

from __future__ import annotations

import filecmp
import logging
import shutil
import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from tuner.adapters.reopen import load_exported
from tuner.errors import ExportError
from tuner.sharding import gathered
from tuner.training.batches import DrawnBatch
from tuner.training.compiling import compiled_by
from tuner.training.loop import Learner
from tuner.training.offloading import HOST, group_offload
from tuner.training.session import Session, release_memory
from tuner.training.sources import fetch_parts
from tuner.types import Batch, Components, Part
from tuner.validation.sampling import evaluating

logger = logging.getLogger(__name__)

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest relative error (of L2 norms) of the re-opened model's velocity by compute dtype: a few roundings of it."""


def export_result(session: Session, learner: Learner, probe: DrawnBatch, metadata: Mapping[str, str]) -> Path | None:
    """Write the result to the output folder and prove that it loads. All processes call it; the main one writes.

    An adapter becomes `pytorch_lora_weights.safetensors`, its moving average the same file in `ema/`. A full tune
    becomes `pipeline/`, with the moving average's weights where there is one. What an earlier run left under these
    names is kept under another one. The live model is released.

    Returns:
        What was written; None in other processes.

    Raises:
        ExportError: What was written cannot be opened, or gives another velocity than the trained model.
    """
    export = _export_pipeline if learner.trainable.kind == "full" else _export_adapter
    return export(session, learner, probe, metadata)


def _export_adapter(session: Session, learner: Learner, probe: DrawnBatch, metadata: Mapping[str, str]) -> Path | None:
    def export() -> Path:
        output_dir = session.config.model.output_dir
        expected = _velocity(session, learner.components, probe)
        written = _write_adapter(output_dir, learner, None, metadata)
        if learner.average is not None:
            averaged = learner.average.state()
            _write_adapter(output_dir / "ema", learner, averaged, {**metadata, "weights": "ema"})
        _compare(session, learner, written, probe, expected)
        return written

    return session.processes.on_main(export)


def _export_pipeline(session: Session, learner: Learner, probe: DrawnBatch, metadata: Mapping[str, str]) -> Path | None:
    processes, average = session.processes, learner.average
    with average.swapped() if average is not None else nullcontext():
        with learner.whole():
            expected = processes.on_main(lambda: _velocity(session, learner.components, probe))
        weights = gathered(learner.trainable.state(), keep=processes.is_main)
        if average is not None:
            metadata = {**metadata, "weights": "ema"}

        def export() -> Path:
            assert expected is not None  # this is the process that has it
            return _write_pipeline(session, learner, weights, metadata)

        written = processes.on_main(export)
    processes.on_main(lambda: _compare(session, learner, written, probe, expected))
    return written


def _write_adapter(
    folder: Path, learner: Learner, weights: Mapping[str, Tensor] | None, metadata: Mapping[str, str]
) -> Path:
    scratch = folder / f".export-{uuid.uuid4().hex}"
    try:
        file = learner.trainable.export(scratch, metadata, weights)
        target = folder / file.name
        _make_room(target, file)
        file.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _write_pipeline(
    session: Session, learner: Learner, weights: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Path:
    parts: tuple[Part, ...] = ("text_encoders", "codec", "scheduler", "denoiser")
    base = fetch_parts(session.source, parts, session.facts)
    target = session.config.model.output_dir / "pipeline"
    scratch = target.with_name(f".pipeline-{uuid.uuid4().hex}")
    try:
        learner.trainable.export(scratch, metadata, weights)
        shutil.copyfile(base.root / "model_index.json", scratch / "model_index.json")
        for folder in sorted({folder for part in parts for folder in session.facts.part_folders[part]}):
            if not (scratch / folder).exists():
                shutil.copytree(base.path_of(folder), scratch / folder)
        _make_room(target, scratch)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _make_room(target: Path, replacement: Path) -> None:
    """Move an earlier result aside, unless the new one is the same to the byte."""
    if not target.exists() or (target.is_file() and filecmp.cmp(target, replacement, shallow=False)):
        return
    number = 1
    while (kept := target.with_name(f"{target.stem}.previous-{number}{target.suffix}")).exists():
        number += 1
    target.rename(kept)
    logger.info("an earlier %s is kept as %s", target.name, kept.name)


def _velocity(session: Session, components: Components, probe: DrawnBatch) -> Tensor:
    assert components.denoiser is not None
    batch: Batch = probe.noised(session.device, session.dtype)
    with evaluating(components.denoiser), compiled_by(components.denoiser, None):
        return session.hook.compute_loss(components=components, batch=batch).velocity.float().cpu()


def _compare(
    session: Session, learner: Learner, written: Path | None, probe: DrawnBatch, expected: Tensor | None
) -> None:
    assert written is not None and expected is not None  # this is the process that has them
    learner.components.denoiser = None
    release_memory()
    if learner.trainable.kind == "full":
        fresh = session.load("denoiser", folder=written)
    else:
        offload = group_offload(session.config, session.device)
        fresh = session.load("denoiser", device=HOST if offload else None)
        assert fresh.denoiser is not None
        load_exported(written, fresh.denoiser, session.device)
        if offload:
            offload.apply(fresh.denoiser, session.device)
    found = _velocity(session, fresh, probe)
    difference = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    tolerance = TOLERANCES[session.dtype]
    if not difference <= tolerance:
        raise ExportError(
            f"{written} was written, but a fresh model that loads it differs from the trained one by "
            f"{difference:.2e} (allowed: {tolerance:.0e})\n"
            "    -> the checkpoints are unharmed; please report this with your configuration"
        )
    logger.info("%s was re-opened in a fresh model: relative difference %.1e", written, difference)
