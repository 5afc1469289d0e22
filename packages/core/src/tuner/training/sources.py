"""Where base weights come from: a local folder, or a hub repository of which only what is needed is downloaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.config.dataset_file import is_folder
from tuner.config.model import ModelConfig
from tuner.errors import TunerError
from tuner.types import FamilyFacts, Part

_TOKENIZER = "tokenizer_config.json"
_SAFE_FILES = (".json", ".safetensors", ".txt", ".model", ".jinja")
_VARIANT = re.compile(r"\.(fp16|bf16)(?=[.-].*(safetensors|json)$)")


@dataclass(frozen=True)
class ModelSource:
    """A base model.

    Attributes:
        name: Folder or repository, as it is shown and recorded.
        is_local: Whether it is a folder.
        revision: Revision of a repository.
        download: Whether what is missing here may be downloaded.
    """

    name: str
    is_local: bool
    revision: str | None = None
    download: bool = True


def resolve_source(model: ModelConfig, facts: FamilyFacts, key: str = "pretrained_model_name_or_path") -> ModelSource:
    """Say which base model a configuration means, without touching the network.

    Args:
        model: The configuration's part about it.
        facts: Its family's facts.
        key: What messages call the setting that names it.

    Raises:
        TunerError: A path that is given does not exist or is not in diffusers layout.
    """
    named = model.pretrained_model_name_or_path
    if named is None:
        return ModelSource(facts.flavours[model.model_flavour or facts.default_flavour].repo, False, model.revision)
    if is_folder(named):
        path = Path(named).expanduser()
        if not (path / "model_index.json").is_file():
            raise TunerError(
                f"{key}: {named} holds no model_index.json, so it is no diffusers checkpoint\n"
                "    -> give the folder that DiffusionPipeline.save_pretrained wrote"
            )
        return ModelSource(str(path), True)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", named) or named.startswith((".", "~")):
        raise TunerError(
            f"{key}: {named} is neither a folder nor a repository named owner/name\n"
            "    -> check its spelling, or leave it out for the family's own weights"
        )
    return ModelSource(named, False, model.revision)


@dataclass(frozen=True)
class ModelFolders:
    """Local folders of a base model.

    Attributes:
        root: The folder in diffusers layout.
        borrowed: Folders of the sub-folders that another repository holds.
    """

    root: Path
    borrowed: Mapping[str, Path] = field(default_factory=dict)

    def path_of(self, subfolder: str) -> Path:
        """Return the folder that holds what the diffusers layout has in `subfolder`."""
        return self.borrowed.get(subfolder, self.root / subfolder)


def fetch_parts(source: ModelSource, parts: Iterable[Part], facts: FamilyFacts) -> ModelFolders:
    """Return local folders that hold `parts` of the model, downloading what is missing where the source allows it.

    Only JSON, tokenizer and safetensors files are fetched, and weights of one precision only.

    Raises:
        TunerError: A sub-folder is missing, or a repository cannot be reached.
    """
    folders = sorted({folder for part in parts for folder in facts.part_folders[part]})
    root = Path(source.name).expanduser() if source.is_local else _download(source, folders)
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    unknown = [folder for folder in missing if folder not in facts.borrowed_folders]
    if unknown:
        raise TunerError(f"{source.name} has no folder {', '.join(unknown)}, which {facts.title} needs")
    return ModelFolders(
        root, {folder: _borrow(folder, facts.borrowed_folders[folder], source.download) for folder in missing}
    )


def denoiser_config(source: ModelSource, facts: FamilyFacts, download: bool = True) -> dict[str, Any] | None:
    """Return the parsed config.json of the denoiser, or None where it is not at hand and `download` is false."""
    name = f"{facts.part_folders['denoiser'][0]}/config.json"
    if source.is_local:
        path = Path(source.name).expanduser() / name
    else:
        found = _config_from_hub(source, name, download)
        if found is None:
            return None
        path = found
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TunerError(f"{path} cannot be read: {error}\n    -> check pretrained_model_name_or_path") from error


def tokenizers_at_hand(source: ModelSource, facts: FamilyFacts) -> dict[str, Path]:
    """Return the folders of the model's tokenizers, by sub-folder, as far as they are here; downloads nothing."""
    found: dict[str, Path] = {}
    for subfolder in facts.part_folders.get("text_encoders", ()):
        if source.is_local:
            places: list[Path | None] = [Path(source.name).expanduser() / subfolder / _TOKENIZER]
        else:
            places = [_from_hub_cache(source.name, f"{subfolder}/{_TOKENIZER}", source.revision)]
        if repository := facts.borrowed_folders.get(subfolder):
            places += [_from_hub_cache(repository, name) for name in (f"{subfolder}/{_TOKENIZER}", _TOKENIZER)]
        here = [path for path in places if path and path.is_file()]
        if here:
            found[subfolder] = here[0].parent
    return found


def _from_hub_cache(repository: str, name: str, revision: str | None = None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _config_from_hub(source: ModelSource, name: str, download: bool) -> Path | None:
    from huggingface_hub import hf_hub_download

    found = _from_hub_cache(source.name, name, source.revision)
    if found or not download:
        return found
    try:
        return Path(hf_hub_download(source.name, name, revision=source.revision))
    except Exception as error:  # the client raises its own, the transport's and the operating system's errors
        raise TunerError(_unreachable(source, error)) from error


def _borrow(folder: str, repository: str, download: bool) -> Path:
    """Return a sub-folder of another repository, or its root where it has no such sub-folder."""
    root = _download(ModelSource(repository, False, download=download), [folder], or_root=True)
    return root / folder if (root / folder).is_dir() else root


def _download(source: ModelSource, folders: list[str], or_root: bool = False) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    if not source.download:
        try:
            return Path(snapshot_download(source.name, revision=source.revision, local_files_only=True))
        except (OSError, ValueError) as error:  # the client's own errors are of these kinds
            raise TunerError(f"{source.name} is not on this machine\n    -> `tuner cache` downloads it") from error
    try:
        files = HfApi().list_repo_files(source.name, revision=source.revision)
        wanted = ["model_index.json", *select_files(files, folders)]
        if or_root and len(wanted) == 1:
            wanted = [name for name in files if "/" not in name and name.endswith(_SAFE_FILES)]
        return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=wanted))
    except Exception as error:  # the client raises its own, the transport's and the operating system's errors
        local = _downloaded_before(source)
        if local is not None:
            return local
        raise TunerError(_unreachable(source, error)) from error


def _unreachable(source: ModelSource, error: Exception) -> str:
    reason = (str(error).splitlines() or [""])[0]
    return (
        f"cannot download {source.name} from the hub: {type(error).__name__}: {reason}\n"
        "    -> check the name, the connection and `hf auth login`; HF_ENDPOINT names a mirror"
    )


def _downloaded_before(source: ModelSource) -> Path | None:
    """Return the folder of an earlier download; every download begins with the file that is looked for."""
    found = _from_hub_cache(source.name, "model_index.json", source.revision)
    return found.parent if found else None


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
