"""The captions of a data set's pictures: from file names, text files, tables, or the entry itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tuner.config.datasets import DatasetConfig, TableConfig
from tuner.data.images import IMAGE_SUFFIXES
from tuner.data.sources.mirror import CAPTIONS
from tuner.data.tables import read_table
from tuner.errors import DatasetError

logger = logging.getLogger(__name__)

Captions = Callable[[str, str], tuple[str, ...]]
"""(path below the data set's folder, path) of a picture -> the captions that one is drawn from whenever it is used.

Raises `MissingCaption` for a picture that has none.
"""


class MissingCaption(Exception):  # noqa: N818 - planning catches it; it never reaches a user
    """A picture without a caption.

    Attributes:
        reason: Why; equal for all pictures with the same fault.
        remedy: What to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def open_captions(dataset: DatasetConfig, pictures: Iterable[str]) -> Captions:
    """Open the source of a data set's captions.

    Args:
        dataset: The entry; its folder is local.
        pictures: Paths of the pictures below that folder. Of a table, only what concerns them is kept.

    Raises:
        DatasetError: A table cannot be read or lacks a column.
    """
    prompt = dataset.instance_prompt
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
    if dataset.only_instance_prompt or dataset.caption_strategy == "instanceprompt":
        return lambda relative, path: prompts
    own = _open_own(dataset, pictures)
    if not dataset.prepend_instance_prompt:
        return own
    return lambda relative, path: tuple(f"{text} {caption}" for text in prompts for caption in own(relative, path))


def _open_own(dataset: DatasetConfig, pictures: Iterable[str]) -> Captions:
    if dataset.caption_strategy == "filename":
        return _from_filename
    if dataset.caption_strategy == "textfile":
        return _from_textfile
    if dataset.caption_strategy == "parquet":
        table = dataset.parquet
        assert table is not None  # checked with the configuration
        path = _find_table(dataset, table.path)
        return _TableCaptions(table, path, path.name, pictures).of
    # What was mirrored brought its captions along.
    table = TableConfig(
        path=dataset.folder / CAPTIONS,
        filename_column="file",
        caption_column="captions",
        identifier_includes_extension=True,
    )
    return _TableCaptions(table, table.path, f"the {dataset.caption_strategy} data set", pictures).of


def _from_filename(relative: str, path: str) -> tuple[str, ...]:
    name = relative.rpartition("/")[2]
    caption = name[: name.rfind(".")].replace("_", " ").strip()
    if not caption:
        raise MissingCaption("its file name holds no caption", "rename the file or choose another caption_strategy")
    return (caption,)


def _from_textfile(relative: str, path: str) -> tuple[str, ...]:
    remedy = "write the caption to a .txt file of the picture's name beside it, or choose another caption_strategy"
    try:
        with open(f"{path[: path.rfind('.')]}.txt", encoding="utf-8-sig") as file:  # noqa: PTH123 - half the time
            text = file.read()
    except FileNotFoundError:
        raise MissingCaption("has no .txt file of its name beside it", remedy) from None
    except OSError as error:
        raise MissingCaption(f"its .txt file cannot be read: {error.strerror}", remedy) from error
    except UnicodeDecodeError:
        raise MissingCaption("its .txt file is not UTF-8 text", "save the file as UTF-8") from None
    captions = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not captions:
        raise MissingCaption("its .txt file is empty", remedy)
    return captions


def _find_table(dataset: DatasetConfig, path: Path) -> Path:
    candidates = (path, dataset.folder / path)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = " nor ".join(str(candidate) for candidate in dict.fromkeys(candidates))
    raise DatasetError(f"data set {dataset.id!r}: parquet: there is no file {tried}\n    -> correct its path")


class _TableCaptions:
    """Captions of a table that names its pictures by path below the folder, or by name alone.

    Where several rows name a picture alike, the first one counts; that is said once, with their number.

    Args:
        table: Its columns.
        path: The file.
        title: What it is called in messages.
        pictures: Paths of the pictures below the data set's folder.
    """

    def __init__(self, table: TableConfig, path: Path, title: str, pictures: Iterable[str]) -> None:
        self._table, self._title = table, title
        self._rows: dict[str, tuple[str, ...]] = {}
        self._example = ""
        wanted = {name for relative in pictures for name in self._names_of(relative)}
        columns = [table.filename_column, table.caption_column, *filter(None, [table.fallback_caption_column])]
        repeated = 0
        for identifier, *captions in read_table(path, columns):
            name = str(identifier).replace("\\", "/").removeprefix("./")
            self._example = self._example or name
            if name not in wanted:
                continue
            repeated += name in self._rows
            self._rows.setdefault(name, next(filter(None, map(_texts, captions)), ()))
        if repeated:
            logger.warning("%s: %d rows name a picture that an earlier row has named, which counts", path, repeated)

    def of(self, relative: str, path: str) -> tuple[str, ...]:
        """Return the captions of a picture, see `Captions`."""
        for name in self._names_of(relative):
            if captions := self._rows.get(name):
                return captions
            if captions is not None:
                raise MissingCaption(f"its caption in {self._title} is empty", "fill it in, or remove the picture")
        raise MissingCaption(f"has no row in {self._title}", self._remedy())

    def _names_of(self, relative: str) -> tuple[str, str]:
        """Return what a row may call a picture."""
        if not self._table.identifier_includes_extension:
            relative = relative[: relative.rfind(".")]
        return relative, relative.rpartition("/")[2]

    def _remedy(self) -> str:
        ends_in_suffix = Path(self._example).suffix.lower() in IMAGE_SUFFIXES
        if self._rows or ends_in_suffix == self._table.identifier_includes_extension or not self._example:
            return "add a row for it, or remove the picture"
        needed = str(ends_in_suffix).lower()
        return f"set identifier_includes_extension to {needed}: the table's names are such as {self._example!r}"


def _texts(value: Any) -> tuple[str, ...]:
    """Return the texts of a table's cell, which may be a list of them."""
    cells = value if isinstance(value, list) else [value]
    return tuple(text.strip() for text in cells if isinstance(text, str) and text.strip())
