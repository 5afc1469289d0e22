"""Where base weights come from: a local folder, or a hub repository of which only what is needed is downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tuner.config.model import ModelConfig
from tuner.errors import TunerError
from tuner.types import FamilyFacts, Part

_SAFE_FILES = (".json", ".safetensors", ".txt", ".model", ".jinja")
_VARIANT = re.compile(r"\.(fp16|bf16)(?=[.-].*(safetensors|json)$)")


@dataclass(frozen=True)
class ModelSource:
    """A base model.

    Attributes:
        name: Folder or repository, as it is shown and recorded.
        is_local: Whether it is a folder.
        revision: Revision of a repository.
    """

    name: str
    is_local: bool
    revision: str | None = None


def resolve_source(model: ModelConfig, facts: FamilyFacts) -> ModelSource:
    """Say which base model a configuration means, without touching the network.

    Raises:
        TunerError: A path that is given does not exist or is not in diffusers layout.
    """
    named = model.pretrained_model_name_or_path
    if named is None:
        return ModelSource(facts.flavours[model.model_flavour or facts.default_flavour].repo, False, model.revision)
    path = Path(named).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise TunerError(
                f"pretrained_model_name_or_path: {named} holds no model_index.json, so it is no diffusers checkpoint\n"
                "    -> give the folder that DiffusionPipeline.save_pretrained wrote"
            )
        return ModelSource(str(path), True)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", named) or named.startswith((".", "~")):
        raise TunerError(
            f"pretrained_model_name_or_path: {named} is neither a folder nor a repository named owner/name"
        )
    return ModelSource(named, False, model.revision)


def fetch_parts(source: ModelSource, parts: Iterable[Part], facts: FamilyFacts) -> Path:
    """Return a local folder that holds `parts` of the model, downloading what is missing.

    Only JSON, tokenizer and safetensors files are fetched, and weights of one precision only.

    Raises:
        TunerError: A sub-folder is missing, or the repository cannot be reached.
    """
    folders = sorted({folder for part in parts for folder in facts.part_folders[part]})
    root = Path(source.name).expanduser() if source.is_local else _download(source, folders)
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if missing:
        raise TunerError(f"{source.name} has no folder {', '.join(missing)}, which {facts.title} needs")
    return root


def _download(source: ModelSource, folders: list[str]) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(source.name, revision=source.revision)
        wanted = ["model_index.json", *select_files(files, folders)]
        return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=wanted))
    except Exception as error:  # the client raises its own, the transport's and the operating system's errors
        local = _downloaded_before(source)
        if local is not None:
            return local
        raise TunerError(
            f"cannot download {source.name} from the hub: {type(error).__name__}: {str(error).splitlines()[0]}\n"
            "    -> check the name, the connection and `hf auth login`; HF_ENDPOINT names a mirror"
        ) from error


def _downloaded_before(source: ModelSource) -> Path | None:
    """Return the folder of an earlier download; every download begins with the file that is looked for."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.name, "model_index.json", revision=source.revision)
    return Path(found).parent if isinstance(found, str) else None


def select_files(files: Iterable[str], folders: Iterable[str]) -> list[str]:
    """Choose the safe files of `folders`, and of weights in several precisions only the unnamed one, or else one."""
    chosen: list[str] = []
    for folder in folders:
        inside = [name for name in files if name.startswith(f"{folder}/") and name.endswith(_SAFE_FILES)]
        weights = [name for name in inside if ".safetensors" in name]
        variants = sorted({match.group(1) for name in weights if (match := _VARIANT.search(name))})
        plain = [name for name in weights if not _VARIANT.search(name)]
        chosen_variant = [name for name in weights if variants and f".{variants[0]}" in name]
        kept = plain or chosen_variant
        chosen += [name for name in inside if name not in weights or name in kept]
    return chosen
