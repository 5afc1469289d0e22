"""Which base model it is, to the byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuner.caching.fingerprints import hash_fields, weights_fingerprint
from tuner.training.sources import ModelSource, fetch_parts
from tuner.types import FamilyFacts, Part


@dataclass(frozen=True)
class BaseIdentity:
    """Which base model weights were trained on.

    Attributes:
        name: Hub repository, or the name of a local folder without its path.
        revision: The repository's commit.
        fingerprint: Hash over the contents of a local folder.
    """

    name: str
    revision: str | None = None
    fingerprint: str | None = None


def base_identity(source: ModelSource, facts: FamilyFacts, memo: Path) -> BaseIdentity:
    """Identify a base model; a local folder's weights are read, once as long as they do not change.

    Args:
        source: The model.
        facts: Its family's facts.
        memo: JSON file that remembers the hashes of files.

    Raises:
        TunerError: Parts are not there, or cannot be read or fetched.
    """
    if known := published_identity(fetch_parts(source, ["denoiser"], facts).root, source):
        return known
    parts: tuple[Part, ...] = ("denoiser", "codec", "text_encoders")
    fingerprint = hash_fields(*(part_fingerprint(source, facts, part, memo) for part in parts))
    return BaseIdentity(Path(source.name).expanduser().resolve().name, fingerprint=fingerprint)


def published_identity(root: Path, source: ModelSource) -> BaseIdentity | None:
    """Return the identity of a model whose folder is a snapshot in the hub's cache, or None.

    Such a folder is `models--OWNER--NAME/snapshots/COMMIT`, also where somebody gives it as a local one.
    """
    root = root.resolve()
    repository = root.parent.parent.name
    if root.parent.name == "snapshots" and repository.startswith("models--"):
        return BaseIdentity(repository.removeprefix("models--").replace("--", "/", 1), root.name)
    return None if source.is_local else BaseIdentity(source.name, source.revision)


def part_fingerprint(source: ModelSource, facts: FamilyFacts, part: Part, memo: Path) -> str:
    """Return a hash of the weights and configurations of a part; fetches them where they lack.

    Raises:
        TunerError: They are not there, or cannot be read or fetched.
    """
    folders = fetch_parts(source, [part], facts)
    return " ".join(weights_fingerprint(folders.path_of(name), ["."], memo) for name in facts.part_folders[part])


def memo_of(cache_dir: Path) -> Path:
    """Return the file in a cache folder that remembers the hashes of files."""
    return cache_dir / "fingerprints.json"
