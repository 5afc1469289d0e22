from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tuner.caching.fingerprints import hash_fields, weights_fingerprint
from tuner.errors import CacheError

FILES = {
    "vae/config.json": b'{"latent_channels": 32}',
    "vae/diffusion_pytorch_model.safetensors": b"weights of the vae",
    "text_encoder/model.safetensors": b"weights of the encoder",
    "tokenizer/merges.txt": b"a b",
    "tokenizer/spiece.model": b"pieces",
}
PARTS = ("text_encoder", "tokenizer", "vae")
YEAR_2020_NS = 1_577_836_800 * 10**9


def make_model(folder: Path) -> Path:
    for name, content in FILES.items():
        write(folder / name, content)
    return folder


def write(path: Path, content: bytes, mtime_ns: int = YEAR_2020_NS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def make_snapshot(hub: Path) -> Path:
    """The layout of the hub's cache: large files are blobs named by SHA-256, small ones by git's SHA-1."""
    snapshot = hub / "snapshots" / "0123abc"
    for name, content in FILES.items():
        small = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        blob = hub / "blobs" / (hashlib.sha256(content).hexdigest() if name.endswith(".safetensors") else small)
        write(blob, content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


def test_fields_are_not_run_together() -> None:
    assert len({hash_fields("ab", "c"), hash_fields("a", "bc"), hash_fields("abc"), hash_fields("abc", "")}) == 4
    assert hash_fields("a", "b") == "6a93c5780b9861cdd8d2761a748d9591"


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_file_that_counts_changes_the_fingerprint(tmp_path: Path, name: str) -> None:
    folder, memo = make_model(tmp_path / "model"), tmp_path / "memo.json"
    before = weights_fingerprint(folder, PARTS, memo)
    write(folder / name, FILES[name] + b" ", mtime_ns=YEAR_2020_NS + 1)
    assert weights_fingerprint(folder, PARTS, memo) != before


def test_a_renamed_file_changes_the_fingerprint(tmp_path: Path) -> None:
    folder, memo = make_model(tmp_path / "model"), tmp_path / "memo.json"
    before = weights_fingerprint(folder, PARTS, memo)
    (folder / "tokenizer/spiece.model").rename(folder / "tokenizer/tokenizer.model")
    assert weights_fingerprint(folder, PARTS, memo) != before


def test_what_does_not_count_changes_nothing(tmp_path: Path) -> None:
    folder, memo = make_model(tmp_path / "model"), tmp_path / "memo.json"
    before = weights_fingerprint(folder, PARTS, memo)
    for name in ("README.md", "vae/README.md", "vae/model.bin", "vae/notes.txt", "transformer/model.safetensors"):
        write(folder / name, b"anything")
    assert weights_fingerprint(folder, PARTS, memo) == before
    assert weights_fingerprint(folder, reversed(PARTS), tmp_path / "other.json") == before


def test_a_snapshot_of_the_hub_equals_a_plain_folder_and_its_blobs_stay_unread(tmp_path: Path) -> None:
    plain = weights_fingerprint(make_model(tmp_path / "model"), PARTS, tmp_path / "memo.json")
    snapshot = make_snapshot(tmp_path / "hub")
    assert weights_fingerprint(snapshot, PARTS, tmp_path / "memo.json") == plain
    for name, content in FILES.items():
        if name.endswith(".safetensors"):  # only a reader would notice
            (snapshot / name).resolve().write_bytes(bytes(len(content)))
    assert weights_fingerprint(snapshot, PARTS, tmp_path / "fresh.json") == plain


def test_contents_are_hashed_once(tmp_path: Path) -> None:
    folder, memo = make_model(tmp_path / "model"), tmp_path / "sub" / "memo.json"
    before = weights_fingerprint(folder, PARTS, memo)
    assert {Path(path).name for path in json.loads(memo.read_text())} == {Path(name).name for name in FILES}
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    write(weights, FILES["vae/diffusion_pytorch_model.safetensors"][::-1])  # same size and time: not read again
    assert weights_fingerprint(folder, PARTS, memo) == before
    memo.write_text("{damaged")
    assert weights_fingerprint(folder, PARTS, memo) != before


def test_a_file_that_was_just_written_is_not_memoised(tmp_path: Path) -> None:
    folder, memo = make_model(tmp_path / "model"), tmp_path / "memo.json"
    (folder / "vae/config.json").write_bytes(b"{}")
    weights_fingerprint(folder, PARTS, memo)
    assert not any(path.endswith("config.json") for path in json.loads(memo.read_text()))


def test_a_part_without_files_is_an_error(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "text_encoder_2").mkdir()
    with pytest.raises(CacheError, match="text_encoder_2: no weights"):
        weights_fingerprint(folder, ("vae", "text_encoder_2"), tmp_path / "memo.json")
