"""Bringing the pictures of a data set to a local folder."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.config.datasets import DatasetConfig
from tuner.data.plan import Unused
from tuner.data.sources import addresses, hub, s3
from tuner.data.sources.mirror import Mirror, open_mirror, read_record
from tuner.data.sources.names import safe_path
from tuner.data.sources.parallel import Progress
from tuner.errors import ConfigError, DatasetError, Problem

logger = logging.getLogger(__name__)

_FETCH: dict[str, Callable[[DatasetConfig, Mirror, Progress], list[Unused]]] = {
    "aws": s3.fetch,
    "csv": addresses.fetch,
    "huggingface": hub.fetch,
}
_PACKAGES = {"aws": ("s3fs", "s3"), "huggingface": ("datasets", "datasets")}
"""type -> (package that reads it, extra that installs it)."""


@dataclass(frozen=True)
class Localised:
    """A data set whose pictures are in a local folder.

    Attributes:
        dataset: The entry, its instance_data_dir set. None where nothing was fetched yet, and nothing may be.
        unused: Pictures that could not be fetched.
    """

    dataset: DatasetConfig | None
    unused: tuple[Unused, ...] = ()


def localise(
    dataset: DatasetConfig, cache_dir: Path, *, offline: bool = False, progress: Progress = lambda done, total: None
) -> Localised:
    """Mirror the pictures of a data set into a local folder; those of a local one stay where they are.

    What the mirror holds already is not fetched again, what vanished at its source is removed from it, and an
    interrupted fetching goes on where it stopped.

    Args:
        dataset: The entry.
        cache_dir: The run's; mirrors without a folder of their own are made below it.
        offline: Fetch nothing and change nothing: take what an earlier call fetched.
        progress: Is told how many files are fetched, of how many.

    Raises:
        ConfigError: The entry cannot be followed, see `source_problems`.
        DatasetError: The source cannot be reached or read, gives no picture, or the mirror cannot be written.
    """
    if dataset.type == "local":
        return Localised(dataset)
    folder = mirror_folder(dataset, cache_dir)
    local = dataset.model_copy(update={"instance_data_dir": folder})
    if offline:
        count = len(read_record(folder))
        text = f"{count} files that were fetched before, into {folder}" if count else "nothing was fetched yet"
        logger.info("data set %s: nothing is fetched now; %s", dataset.id, text)
        return Localised(local if count else None)
    if problems := source_problems([dataset], cache_dir):
        raise ConfigError(problems)
    try:
        with open_mirror(folder) as mirror:
            return Localised(local, tuple(_FETCH[dataset.type](dataset, mirror, progress)))
    except OSError as error:
        raise DatasetError(
            f"data set {dataset.id!r}: its pictures cannot be written to {folder}: {error}\n"
            "    -> make room, allow writing there, or give another folder"
        ) from error


def mirror_folder(dataset: DatasetConfig, cache_dir: Path) -> Path:
    """Return the folder that the pictures of a data set, one that is not local, are mirrored into."""
    return dataset.csv_cache_dir or dataset.cache_dir or cache_dir / "sources" / safe_path(dataset.id)


def source_problems(datasets: Sequence[DatasetConfig], cache_dir: Path, source: str = "data set file") -> list[Problem]:
    """Return what is wrong with entries that are not local, as far as this shows without a network.

    Args:
        datasets: All entries; local ones are passed over.
        cache_dir: The run's.
        source: Name of the data set file, for messages.
    """
    remote = [dataset for dataset in datasets if dataset.type != "local"]
    problems = [problem for dataset in remote for problem in _problems(dataset, f"{source}, data set {dataset.id!r}")]
    owners: dict[Path, DatasetConfig] = {}
    for dataset in remote:
        folder = mirror_folder(dataset, cache_dir).absolute()
        other = owners.setdefault(folder, dataset)
        if _origin(other) != _origin(dataset):
            message = f"{folder} already holds the pictures of {other.id!r}, which come from elsewhere"
            problems.append(Problem(message, source, dataset.id, "give each entry a folder of its own"))
    return problems


def _problems(dataset: DatasetConfig, name: str) -> Iterator[Problem]:
    package, extra = _PACKAGES.get(dataset.type, ("", ""))
    if package and importlib.util.find_spec(package) is None:
        remedy = f"pip install 'tuner-core[{extra}]'"
        yield Problem(f"{dataset.type} needs the package {package}, which is not installed", name, "type", remedy)
    if (dataset.aws_access_key_id is None) != (dataset.aws_secret_access_key is None):
        missing = "aws_secret_access_key" if dataset.aws_secret_access_key is None else "aws_access_key_id"
        yield Problem("a key and its secret belong together", name, missing, "give both, or neither")
    if dataset.type == "csv":
        try:
            addresses.read_rows(dataset)
        except DatasetError as error:
            message, _, remedy = str(error).partition("\n    -> ")
            yield Problem(message, name, "csv_file", remedy)


def _origin(dataset: DatasetConfig) -> tuple[object, ...]:
    """Return what decides which files a mirror holds."""
    keys = {
        "aws": ("aws_endpoint_url", "aws_bucket_name", "aws_data_prefix"),
        "csv": ("csv_file", "csv_url_column"),
        "huggingface": ("dataset_name", "dataset_config", "split", "revision"),
    }
    image = dataset.hub_column("image_column") if dataset.type == "huggingface" else None
    return (dataset.type, image, *(getattr(dataset, key) for key in keys[dataset.type]))
