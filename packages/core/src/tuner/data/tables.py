"""Rows of tables in files: Parquet and JSON Lines."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import DatasetError

_PARQUET = b"PAR1"
"""What such a file begins with, whatever it is called."""
_BATCH = 8192  # rows in memory at a time


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of `columns`, row by row; None where there is none.

    Raises:
        DatasetError: The file cannot be read, is neither Parquet nor JSON Lines, or lacks a column.
    """
    try:
        with path.open("rb") as file:
            is_parquet = file.read(len(_PARQUET)) == _PARQUET
        yield from _parquet(path, columns) if is_parquet else _json_lines(path, columns)
    except OSError as error:  # pyarrow's own errors about damaged files are OSErrors, too
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}\n    -> check the path") from error


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    if importlib.util.find_spec("pyarrow") is None:
        remedy = "pip install 'tuner-core[parquet]', or give the table as JSON Lines"
        raise DatasetError(f"{path}: Parquet needs the package pyarrow, which is not installed\n    -> {remedy}")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _refuse_missing(path, columns, names)
            for batch in file.iter_batches(_BATCH, columns=list(columns)):
                yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
    except pyarrow.ArrowException as error:
        raise DatasetError(f"{path} is damaged: {error}\n    -> write it anew") from error


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    names: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise _not_json(path, f"line {number} is no object")
                names.update(dict.fromkeys(row))
                yield tuple(row.get(name) for name in columns)
        except json.JSONDecodeError as error:
            raise _not_json(path, f"line {number}: {error.msg}") from error
        except UnicodeDecodeError as error:
            raise _not_json(path, "it is not UTF-8 text") from error
    _refuse_missing(path, columns, list(names))


def _not_json(path: Path, reason: str) -> DatasetError:
    remedy = 'write one object such as {"filename": "a.png", "caption": "a cat"} on each line'
    return DatasetError(f"{path} is neither Parquet nor JSON Lines: {reason}\n    -> {remedy}")


def _refuse_missing(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        text = f"has no column {', '.join(map(repr, missing))}; it has: {', '.join(names) or 'none'}"
        raise DatasetError(f"{path} {text}\n    -> name its columns in the data set's entry")
