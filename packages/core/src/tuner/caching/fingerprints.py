"""Content hashes that cache keys are made of."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from pathlib import Path

from tuner.caching.files import load_memo, save_memo
from tuner.errors import CacheError

_SUFFIXES = frozenset({".safetensors", ".json", ".model", ".jinja", ".tiktoken"})
_TOKENIZER_NAMES = frozenset({"merges.txt", "vocab.txt"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A file changed twice within a clock tick keeps its modification time: what is this young is not memoised.
_YOUNG_NS = 2 * 10**9


def hash_fields(*fields: str) -> str:
    """Return 32 hexadecimal digits for a tuple of strings; length-prefixed, so no two tuples share an encoding."""
    data = b"".join(len(raw).to_bytes(8, "little") + raw for raw in (field.encode() for field in fields))
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def weights_fingerprint(folder: Path, subfolders: Iterable[str], memo: Path) -> str:
    """Return a hash over names and contents of the weights, configs and tokenizer files in sub-folders.

    Equal files give an equal fingerprint, whether they lie in a plain folder or in a snapshot of the hub's cache,
    whose large files need not be read: their blobs are named by their SHA-256.

    Args:
        folder: A model in diffusers layout.
        subfolders: The sub-folders that count, such as "vae".
        memo: JSON file that remembers content hashes by path, size and modification time.

    Raises:
        CacheError: A sub-folder holds nothing that counts, or a file cannot be read.
    """
    remembered = load_memo(memo)
    known = dict(remembered)
    fields: list[str] = []
    for subfolder in sorted(set(subfolders)):
        paths = sorted(path for path in (folder / subfolder).rglob("*") if _counts(path))
        if not paths:
            raise CacheError(f"{folder / subfolder}: no weights or configuration in this folder of the model")
        for path in paths:
            fields += [path.relative_to(folder).as_posix(), _content_hash(path, known)]
    if known != remembered:
        memo.parent.mkdir(parents=True, exist_ok=True)
        save_memo(memo, {path: record for path, record in known.items() if Path(path).exists()})
    return hash_fields(*fields)


def _counts(path: Path) -> bool:
    return (path.suffix in _SUFFIXES or path.name in _TOKENIZER_NAMES) and path.is_file()


def _content_hash(path: Path, known: dict[str, object]) -> str:
    real = path.resolve()
    if path.is_symlink() and real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    try:
        stat = real.stat()
        record = known.get(str(real))
        if isinstance(record, list) and len(record) == 3 and record[:2] == [stat.st_size, stat.st_mtime_ns]:
            return str(record[2])
        digest = _sha256(real)
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror})") from error
    if time.time_ns() - stat.st_mtime_ns > _YOUNG_NS:
        known[str(real)] = [stat.st_size, stat.st_mtime_ns, digest]
    return digest


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
