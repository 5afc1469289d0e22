"""Writing results: beside their place first, then renamed into it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save, save_file
from torch import Tensor

from tuner.errors import ExportError

WEIGHT_FILE = "pytorch_lora_weights.safetensors"
"""Name that diffusers looks for in a folder."""

_LENGTH = 8
"""Bytes of the header's length at the start of a safetensors file."""


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Give a temporary name in the target's folder, and rename it to the target if the block succeeds.

    Raises:
        ExportError: The target exists.
    """
    if target.exists():
        raise ExportError(f"{target} exists and is never overwritten; move it away or choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        yield aside
        aside.rename(target)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        aside.unlink(missing_ok=True)


def write_weights(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write an adapter's file to a folder and return its path.

    Raises:
        ExportError: The file exists.
    """
    target = folder / WEIGHT_FILE
    write_tensors(target, tensors, metadata)
    return target


def write_tensors(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a file; equal ones give equal bytes.

    Raises:
        ExportError: The file exists.
    """
    with placed(target) as aside:
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        aside.write_bytes(_in_order(save(contiguous, {"format": "pt", **metadata})))


def write_model(folder: Path, model: Any, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a diffusers model as its own `save_pretrained` does, and `metadata` into the header of each file.

    Args:
        folder: Where to write; made here.
        model: A model of diffusers.
        tensors: What its files hold, by name.
        metadata: What to record.
    """
    folder.mkdir(parents=True)
    model.save_config(folder)
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=_SHARD, filename_pattern=_MODEL_FILES)
    for name, keys in split.filename_to_tensors.items():
        file = folder / name
        save_file({key: tensors[key].contiguous() for key in keys}, file, {"format": "pt", **metadata})
        _sort_metadata(file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{_MODEL_FILES.format(suffix='')}.index.json").write_text(text, encoding="utf-8")


_MODEL_FILES = "diffusion_pytorch_model{suffix}.safetensors"
_SHARD = "10GB"


def _sort_metadata(file: Path) -> None:
    """Sort the metadata of a written file, as `_in_order`, without writing its tensors again."""
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(_LENGTH), "little")
        header = json.loads(opened.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # always so, as long as safetensors writes JSON without blanks
            opened.seek(_LENGTH)
            opened.write(text + b" " * (length - len(text)))


def _in_order(serialized: bytes) -> bytes:
    """Sort the metadata of a serialized file, which safetensors writes in another order each time.

    Equal runs then give equal bytes. Offsets count from the end of the header, so it may change its length; it is
    padded to whole words, as the format asks.
    """
    length = int.from_bytes(serialized[:_LENGTH], "little")
    header = json.loads(serialized[_LENGTH : _LENGTH + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text + serialized[_LENGTH + length :]
