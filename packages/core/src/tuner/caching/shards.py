"""One shard: a safetensors file that holds whole cache entries, their checksums and their notes.

A tensor is called "KEY/NAME". The header's metadata hold, under "entries", a JSON object of
key -> {"checksum": CRC-32, "note": JSON}. The checksum covers key, names, dtypes, shapes and bytes.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tuner.caching.files import write_aside
from tuner.caching.fingerprints import hash_fields

_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class UnreadableShard(Exception):  # noqa: N818 - the name says what it is
    """A file that is not a whole shard: truncated, or its header makes no sense."""


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in its file; `start` in bytes from the file's beginning."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class EntryPlace:
    """Where an entry lies and what its checksum was when it was written."""

    shard: Path
    key: str
    checksum: int
    note: Any
    tensors: tuple[TensorPlace, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(place.nbytes for place in self.tensors)

    def describe(self) -> str:
        """Return shard, key and note, for people."""
        return f"{self.shard}: entry {self.key} ({self.note})"

    def read(self) -> tuple[dict[str, Tensor], bool]:
        """Read the entry's tensors, in memory of their own, and whether they match the checksum.

        Raises:
            OSError: The file cannot be read.
        """
        with self.shard.open("rb", buffering=0) as file:
            tensors = {place.name: _read_tensor(file, place) for place in self.tensors}
        return tensors, entry_checksum(self.key, tensors) == self.checksum


@dataclass(frozen=True)
class PendingEntry:
    """An entry on its way to a shard: contiguous tensors on the CPU."""

    tensors: Mapping[str, Tensor]
    note: Any

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def entry_checksum(key: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 over an entry's key, tensor names, dtypes, shapes and bytes."""
    checksum = zlib.crc32(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"/{name}:{tensor.dtype}{list(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def write_shard(folder: Path, entries: Mapping[str, PendingEntry]) -> Path:
    """Write entries to a shard of `folder`, whole or not at all, and return it.

    Its name follows from all that it holds, so a file that replaces one of its name has the same bytes: whoever knows
    where the entries lie in one can read the other.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    sums = {key: entry_checksum(key, entries[key].tensors) for key in sorted(entries)}
    described = {key: {"checksum": checksum, "note": entries[key].note} for key, checksum in sums.items()}
    tensors = {f"{key}/{name}": tensor for key, entry in entries.items() for name, tensor in entry.tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata={"entries": json.dumps(described)})
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(str(error)) from error

    path = folder / f"shard-{hash_fields(json.dumps(described, sort_keys=True))}.safetensors"
    write_aside(path, write)
    return path


def read_entries(path: Path) -> dict[str, EntryPlace]:
    """Read a shard's header: key -> entry.

    Raises:
        UnreadableShard: The file is truncated or is not a shard.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise UnreadableShard(f"it has {size} bytes, which do not hold a header")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        described = json.loads(header.pop("__metadata__")["entries"])
        tensors = _tensor_places(header, base=8 + length, size=size)
        return {
            key: EntryPlace(path, key, entry["checksum"], entry["note"], tuple(tensors[key]))
            for key, entry in described.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableShard(f"its header makes no sense ({error})") from error


def _tensor_places(header: dict[str, Any], base: int, size: int) -> dict[str, list[TensorPlace]]:
    places: dict[str, list[TensorPlace]] = {}
    total = base
    for full_name, facts in header.items():
        key, _, name = full_name.partition("/")
        start, end = facts["data_offsets"]
        dtype, shape = _DTYPES[facts["dtype"]], tuple(map(index, facts["shape"]))
        if start < 0 or end - start != math.prod(shape) * dtype.itemsize:
            raise UnreadableShard(f"tensor {full_name} has {end - start} bytes, which its shape {shape} contradicts")
        places.setdefault(key, []).append(TensorPlace(name, dtype, shape, base + start))
        total = max(total, base + end)
    if total != size:
        raise UnreadableShard(f"it has {size} bytes where {total} are announced")
    return places


def _read_tensor(file: BinaryIO, place: TensorPlace) -> Tensor:
    raw = torch.empty(place.nbytes, dtype=torch.uint8)
    file.seek(place.start)
    view = raw.numpy().data
    while len(view):
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            break  # the file became shorter since it was opened; the checksum will tell
        view = view[count:]
    return raw.view(place.dtype).view(place.shape)
