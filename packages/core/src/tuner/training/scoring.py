"""Scores of validation pictures, and where the model that scores them comes from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.config import RunConfig
from tuner.config.dataset_file import is_folder
from tuner.errors import TunerError
from tuner.events import Evaluated
from tuner.training.session import Session, release_memory
from tuner.validation.clip_score import check_clip, clip_scores, describe_scores
from tuner.validation.pictures import picture_prompts

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

_WANTED = ["*.json", "*.txt", "model*.safetensors"]
_CONVERTER = "SFconvertbot"
"""The hub's own account that offers safetensors of repositories whose owners have not published any."""


def wants_scores(config: RunConfig) -> bool:
    """Whether validation pictures are made and scored."""
    return config.evaluation.evaluation_type == "clip" and any(item.prompt for item in picture_prompts(config))


def check_scoring(config: RunConfig) -> None:
    """Make sure that the model that scores pictures is here and whole, where one is needed; downloads it if need be.

    Raises:
        TunerError: It is not, or cannot be downloaded.
    """
    if wants_scores(config):
        check_clip(_scorer_folder(config))


def score_pictures(
    session: Session, step: int, label: str, files: Mapping[str, tuple[Path, ...]], prompts: Mapping[str, str]
) -> None:
    """Score a round of pictures and tell the extensions. Those of the empty prompt have nothing to fit to.

    Args:
        session: The run's surroundings.
        step: Optimizer steps taken.
        label: Whose weights made them.
        files: Nickname -> pictures.
        prompts: Nickname -> prompt.
    """
    pictures = [(file, prompts[name]) for name, group in files.items() if prompts[name] for file in group]
    if not wants_scores(session.config) or not pictures:
        return
    metrics = describe_scores(clip_scores(_scorer_folder(session.config), pictures, session.device))
    release_memory()
    logger.info("CLIP score of step %d (%s): mean %.4f", step, label, metrics["clip_score/mean"])
    session.hook.evaluated(event=Evaluated(step, label, metrics, basis=_basis(session)))


def _basis(session: Session) -> str:
    """Return a hash of what scores depend on beside the weights."""
    validation = session.config.validation
    asked = (
        session.config.evaluation.pretrained_evaluation_model_name_or_path,
        session.facts.name,
        picture_prompts(session.config),
        validation.sizes(),
        validation.validation_num_inference_steps,
        validation.validation_guidance,
        validation.validation_guidance_rescale,
        validation.validation_negative_prompt,
        session.seed if validation.validation_seed is None else validation.validation_seed,
    )
    return hashlib.blake2b(repr(asked).encode(), digest_size=16).hexdigest()


def _scorer_folder(config: RunConfig) -> Path:
    named = config.evaluation.pretrained_evaluation_model_name_or_path
    if is_folder(named):
        return Path(named).expanduser()
    return _downloaded_before(named) or _download(named)


def _download(repository: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        api = HfApi()
        revision = None if _has_safetensors(api, repository) else _converted(api, repository)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED))
    except TunerError:
        raise
    except Exception as error:  # the client raises its own, the transport's and the operating system's errors
        reason = (str(error).splitlines() or [""])[0]
        raise TunerError(
            f"cannot download {repository}, which scores pictures, from the hub: {type(error).__name__}: {reason}\n"
            "    -> give a local folder as pretrained_evaluation_model_name_or_path, or set evaluation_type to none"
        ) from error


def _has_safetensors(api: HfApi, repository: str, revision: str | None = None) -> bool:
    return any(name.endswith(".safetensors") for name in api.list_repo_files(repository, revision=revision))


def _converted(api: HfApi, repository: str) -> str:
    """Return the revision of the hub's own conversion to safetensors: pickled weights are not read."""
    for proposal in api.get_repo_discussions(repository, author=_CONVERTER, discussion_type="pull_request"):
        revision = f"refs/pr/{proposal.num}"
        if proposal.author == _CONVERTER and _has_safetensors(api, repository, revision):
            return revision
    raise TunerError(
        f"pretrained_evaluation_model_name_or_path: {repository} has no weights in safetensors, and others are not "
        "read\n    -> give another model, such as openai/clip-vit-large-patch14"
    )


def _downloaded_before(repository: str) -> Path | None:
    """Return the folder of an earlier download."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        known = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return None
    for entry in known:
        if entry.repo_id == repository and entry.repo_type == "model":
            for revision in entry.revisions:
                if {"config.json", "model.safetensors"} <= {file.file_name for file in revision.files}:
                    return revision.snapshot_path
    return None
