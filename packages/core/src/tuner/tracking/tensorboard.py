"""TensorBoard: losses, learning rate and validation pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.config.prompts import safe_name
from tuner.errors import TunerError
from tuner.events import Evaluated, ImagesValidated, RunEnded, RunStarted, StepEnded
from tuner.tracking.forgiving import Forgiving
from tuner.tracking.labels import labelled

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def create(config: RunConfig) -> TensorBoard | None:
    """Take part where report_to asks for it.

    Raises:
        TunerError: TensorBoard is asked for and not installed.
    """
    asked = config.tracking.report_to
    if asked not in ("tensorboard", "all"):
        return None
    if not is_installed():
        if asked == "all":
            return None
        raise TunerError(
            "report_to is tensorboard, which is not installed\n    -> pip install 'tuner-core[tensorboard]'"
        )
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoard(SummaryWriter, config.model.output_dir / "logs" / safe_name(config.tracking.tracker_run_name))


def is_installed() -> bool:
    """Whether TensorBoard is there."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoard:
    """Writes event files below the output folder. Where that fails, it warns and leaves it at that."""

    def __init__(self, writer_class: type[SummaryWriter], folder: Path) -> None:
        self._writer_class = writer_class
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._attempt = Forgiving("TensorBoard")

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Open the writer; steps that a resumed run takes again replace the earlier ones."""
        self._attempt(lambda: self._open(event.first_step))

    def _open(self, first_step: int) -> None:
        self._writer = self._writer_class(str(self._folder), purge_step=first_step + 1)

    @hookimpl
    def step_ended(self, event: StepEnded) -> None:
        """Write the scalars of a logged step."""
        if not event.logged:
            return
        values = {"train_loss": event.loss.item(), "learning_rate": event.learning_rate, **event.metrics}
        self._attempt(lambda: self._add({name: float(value) for name, value in values.items()}, event.step))

    @hookimpl
    def evaluated(self, event: Evaluated) -> None:
        """Write the values."""
        values = {labelled(name, event.label): value for name, value in event.metrics.items()}
        self._attempt(lambda: self._add(values, event.step))

    def _add(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    @hookimpl
    def images_validated(self, event: ImagesValidated) -> None:
        """Write the pictures."""
        self._attempt(lambda: self._add_pictures(event))

    def _add_pictures(self, event: ImagesValidated) -> None:
        if self._writer is None:
            return
        import numpy as np
        from PIL import Image

        for nickname, files in event.shown.items():
            for number, file in enumerate(files):
                with Image.open(file) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                self._writer.add_image(f"{nickname}/{number}", pixels, event.step, dataformats="HWC")

    @hookimpl
    def run_ended(self, event: RunEnded) -> None:
        """Close the writer."""
        if self._writer is not None:
            self._attempt(self._writer.close)
