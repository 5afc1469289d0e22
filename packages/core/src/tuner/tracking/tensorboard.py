"""TensorBoard: losses, learning rate and validation pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tuner import hookimpl
from tuner.config import RunConfig
from tuner.errors import TunerError
from tuner.events import Evaluated, ImagesValidated, RunEnded, RunStarted, StepEnded

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def create(config: RunConfig) -> TensorBoard | None:
    """Take part where report_to asks for it.

    Raises:
        TunerError: TensorBoard is asked for and not installed.
    """
    if config.tracking.report_to not in ("tensorboard", "all"):
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TunerError(
            "report_to is tensorboard, which is not installed\n    -> pip install 'tuner-core[tensorboard]'"
        ) from error
    return TensorBoard(SummaryWriter, config.model.output_dir / "logs" / Path(config.tracking.tracker_run_name).name)


class TensorBoard:
    """Writes event files below the output folder."""

    def __init__(self, writer_class: type[SummaryWriter], folder: Path) -> None:
        self._writer_class = writer_class
        self._folder = folder
        self._writer: SummaryWriter | None = None

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Open the writer; steps that a resumed run takes again replace the earlier ones."""
        self._writer = self._writer_class(str(self._folder), purge_step=event.first_step + 1)

    @hookimpl
    def step_ended(self, event: StepEnded) -> None:
        """Write the scalars of a logged step."""
        if self._writer is None or not event.logged:
            return
        self._writer.add_scalar("train_loss", event.loss.item(), event.step)
        self._writer.add_scalar("learning_rate", event.learning_rate, event.step)
        for name, value in event.metrics.items():
            self._writer.add_scalar(name, float(value), event.step)

    @hookimpl
    def evaluated(self, event: Evaluated) -> None:
        """Write the values; those of the base model and of the moving average under names of their own."""
        if self._writer is None:
            return
        for name, value in event.metrics.items():
            self._writer.add_scalar(name if event.label == "live" else f"{name} ({event.label})", value, event.step)

    @hookimpl
    def images_validated(self, event: ImagesValidated) -> None:
        """Write the pictures."""
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
            self._writer.close()
