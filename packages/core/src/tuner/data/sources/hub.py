"""Pictures in data sets of the Hugging Face Hub, or in local folders of the same form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tuner.config.datasets import DatasetConfig
from tuner.data.images import UnreadableImage
from tuner.data.plan import Unused
from tuner.data.sources.mirror import Mirror, NameTaken
from tuner.data.sources.parallel import Progress, in_parallel
from tuner.data.sources.pictures import picture_suffix
from tuner.errors import DatasetError

_BATCH = 8
"""Rows that each thread reads at a time; they lie in memory with their pictures."""
_TEXT_OR_BYTES = ("string", "large_string", "binary", "large_binary")


def fetch(dataset: DatasetConfig, mirror: Mirror, progress: Progress) -> list[Unused]:
    """Write the pictures of all rows to the mirror, with the bytes that they have, and their captions beside them.

    Raises:
        DatasetError: The data set cannot be loaded, lacks a column, or none of its rows holds a picture.
        OSError: The mirror cannot be written to.
    """
    source = _Rows(dataset, mirror)
    rows = range(len(source.table))
    missing = [row for row in rows if not mirror.holds(_address(row), source.stamp)]
    batches = [missing[start : start + _BATCH] for start in range(0, len(missing), _BATCH)]
    in_parallel(source.copy, batches, lambda done, _: progress(min(done * _BATCH, len(missing)), len(missing)))
    held = [row for row in rows if mirror.holds(_address(row), source.stamp)]
    if not held:
        why = source.unused[min(source.unused)].reason if source.unused else "it has no rows"
        raise _failure(dataset, f"gives no picture that can be read: {why}", "check image_column and split")
    mirror.prune({_address(row) for row in rows})
    if dataset.caption_strategy == "huggingface":
        kept = set(held)
        captions = ((row, texts) for row, texts in enumerate(source.captions()) if row in kept)
        mirror.write_captions((mirror.path_of(_address(row)), texts) for row, texts in captions)
    return [source.unused[row] for row in sorted(source.unused)]


def captions_of(row: Mapping[str, Any], columns: Sequence[str], fallback: str | None) -> list[str]:
    """Return the captions in `columns` of a row, or those in `fallback` if these are empty.

    A column holds a text or a list of texts. Dots in its name lead into nested columns, unless it is called so.
    """
    captions = [text for column in columns for text in _texts(_value(row, column))]
    return captions or (_texts(_value(row, fallback)) if fallback else [])


def _value(value: Any, column: str) -> Any:
    if isinstance(value, list):
        return [_value(item, column) for item in value]
    if not isinstance(value, Mapping):
        return None
    if column in value:
        return value[column]
    outer, dot, inner = column.partition(".")
    return _value(value.get(outer), inner) if dot else None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def _load(dataset: DatasetConfig) -> Any:
    """Load the split. Whatever the data set is made of, no code of its own is run."""
    import datasets

    name = str(dataset.dataset_name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        name = str(folder.absolute())
    try:
        return datasets.load_dataset(name, dataset.dataset_config, split=dataset.split, revision=dataset.revision)
    except Exception as error:  # the client raises its own, the transport's and the operating system's errors
        text = f"cannot be loaded: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        remedy = "check dataset_name, dataset_config, split, revision, the connection and `hf auth login`"
        raise _failure(dataset, text, remedy) from error


class _Columns(NamedTuple):
    """Names of columns.

    Attributes:
        image: The pictures.
        captions: Captions to draw from.
        fallback: Captions where the others are empty.
    """

    image: str
    captions: tuple[str, ...]
    fallback: str | None

    @classmethod
    def of(cls, dataset: DatasetConfig) -> _Columns:
        captions = dataset.hub_column("caption_column")
        names = (captions,) if isinstance(captions, str) else tuple(captions)
        return cls(dataset.hub_column("image_column"), names, dataset.hub_column("fallback_caption_column"))

    def check(self, dataset: DatasetConfig, table: Any) -> None:
        """Refuse columns that a loaded data set does not have."""
        wanted = {"image_column": [self.image]}
        if dataset.caption_strategy == "huggingface":
            wanted |= {"caption_column": list(self.captions), "fallback_caption_column": [self.fallback or self.image]}
        for key, columns in wanted.items():
            for column in columns:
                if _outermost(column, table) not in table.column_names:
                    text = f"has no column {column!r}; it has: {', '.join(table.column_names)}"
                    raise _failure(dataset, text, f"set {key}")


class _Rows:
    """The rows of a data set.

    Attributes:
        table: The data set as loaded; its pictures are not decoded.
        stamp: What tells this version of the data from others.
        unused: Rows without a picture that can be read, and why.
    """

    def __init__(self, dataset: DatasetConfig, mirror: Mirror) -> None:
        table = _load(dataset)
        self._dataset, self._mirror = dataset, mirror
        self._columns = _Columns.of(dataset)
        self._columns.check(dataset, table)
        self.stamp = f"{table._fingerprint} {self._columns.image}"  # of the data as loaded, before the cast below
        self.table = _undecoded(dataset, table, self._columns.image)
        self.unused: dict[int, Unused] = {}

    def copy(self, rows: list[int]) -> None:
        """Write the pictures of some rows."""
        values = self.table.select_columns([self._columns.image])[rows][self._columns.image]
        for row, value in zip(rows, values, strict=True):
            try:
                with self._mirror.incoming() as path:
                    path.write_bytes(_content_of(value))
                    self._mirror.keep(path, _address(row), f"{row:09d}{picture_suffix(path)}", self.stamp)
            except UnreadableImage as error:
                self._leave_out(row, error.reason, "repair or replace the picture, or leave the row out")
            except NameTaken as error:
                self._leave_out(row, str(error), "move that file elsewhere")

    def captions(self) -> Iterator[list[str]]:
        """Yield the captions of each row."""
        columns = self._columns
        names = [*columns.captions, *([columns.fallback] if columns.fallback else [])]
        table = self.table.select_columns(list(dict.fromkeys(_outermost(name, self.table) for name in names)))
        for batch in table.with_format("arrow").iter(batch_size=1024):
            for row in batch.to_pylist():
                yield captions_of(row, columns.captions, columns.fallback)

    def _leave_out(self, row: int, reason: str, remedy: str) -> None:
        self.unused[row] = Unused(self._dataset.id, f"{self._dataset.id}/row {row}", reason, remedy)


def _undecoded(dataset: DatasetConfig, table: Any, column: str) -> Any:
    """Return the data set so that pictures come as they are stored: with their bytes or path, or as numbers."""
    import datasets

    kind = table.features[column]
    is_text = isinstance(kind, datasets.Value) and kind.dtype in _TEXT_OR_BYTES
    is_struct = isinstance(kind, dict) and {"bytes", "path"} & set(kind)
    if isinstance(kind, datasets.Image) or is_text or is_struct:
        return table.cast_column(column, datasets.Image(decode=False))
    if isinstance(kind, (datasets.Array2D, datasets.Array3D, datasets.List, datasets.LargeList)):
        return table
    raise _failure(dataset, f"holds no pictures in {column!r} but {kind}", "set image_column")


def _content_of(value: Any) -> bytes:
    """Return a picture's own bytes, or, where it has none but numbers, these as PNG.

    Raises:
        UnreadableImage: There is none.
    """
    import fsspec

    if isinstance(value, list):
        return _as_png(value)
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise UnreadableImage("its row has no picture")
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    try:
        with fsspec.open(value["path"], "rb") as file:  # maybe inside an archive
            return bytes(file.read())
    except Exception as error:  # of the operating system or of whatever reads such a path
        raise UnreadableImage("its row names a file that cannot be read") from error


def _as_png(numbers: list[Any]) -> bytes:
    import datasets
    import numpy as np

    try:
        pixels = np.asarray(numbers)
        if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
            raise UnreadableImage("has pixels that are no whole numbers from 0 to 255")
        return bytes(datasets.Image().encode_example(pixels.astype(np.uint8))["bytes"])
    except (ValueError, TypeError) as error:  # lengths differ, or there are too many dimensions
        raise UnreadableImage("has pixels that form no picture") from error


def _outermost(column: str, table: Any) -> str:
    """Return the column of a data set that `column`, maybe a nested one, is in."""
    return column if column in table.column_names else column.partition(".")[0]


def _address(row: int) -> str:
    return f"row {row}"


def _failure(dataset: DatasetConfig, text: str, remedy: str) -> DatasetError:
    return DatasetError(f"data set {dataset.id!r}: dataset_name: {dataset.dataset_name} {text}\n    -> {remedy}")
