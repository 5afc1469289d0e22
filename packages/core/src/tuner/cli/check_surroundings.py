"""What a run needs beside its data and model: extensions that can take part, and the model that scores pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tuner.config.dataset_file import is_folder
from tuner.config.run import RunConfig
from tuner.data.doctor.finding import Finding
from tuner.errors import TunerError


def surroundings(config: RunConfig) -> Iterator[Finding]:
    """Yield what would keep the run from beginning, such as a tracker that nobody is logged in to.

    Nothing is downloaded, and nobody is told anything.
    """
    from tuner.plugins import create_extensions

    yield from _attempted("extension", lambda: create_extensions(config))
    scorer = config.evaluation.pretrained_evaluation_model_name_or_path
    if config.evaluation.evaluation_type == "clip" and is_folder(scorer):
        from tuner.training.scoring import wants_scores
        from tuner.validation.clip_score import check_clip

        if not wants_scores(config):
            return
        yield from _attempted("scores", lambda: check_clip(Path(scorer).expanduser()))


def _attempted(kind: str, attempt: Callable[[], object]) -> Iterator[Finding]:
    try:
        attempt()
    except TunerError as error:
        reason, _, remedy = str(error).partition("\n    -> ")
        yield Finding("error", kind, "", reason, remedy)
