"""Pictures in S3-compatible storage."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from tuner.config.datasets import DatasetConfig
from tuner.data.plan import Unused
from tuner.data.sources.mirror import Mirror, NameTaken
from tuner.data.sources.names import safe_path
from tuner.data.sources.parallel import Progress, in_parallel
from tuner.data.sources.pictures import has_picture_suffix
from tuner.errors import DatasetError

_BESIDE_PICTURES = re.compile(r"\.(txt|parquet|jsonl|csv)$", re.IGNORECASE)
_PATIENCE = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3, "mode": "standard"}}


class _Object(NamedTuple):
    """An object of a bucket.

    Attributes:
        path: Bucket and key.
        relative: Where it goes, below the mirror.
        size: Bytes.
        stamp: What tells this version from others.
    """

    path: str
    relative: str
    size: int
    stamp: str


def fetch(dataset: DatasetConfig, mirror: Mirror, progress: Progress) -> list[Unused]:
    """Copy what is new below the prefix, and remove from the mirror what is no longer there.

    Raises:
        DatasetError: The storage cannot be reached, refuses access or holds nothing there, or a copy failed. What was
            copied by then is kept.
    """
    system = _connect(dataset)
    objects = _list(system, dataset)
    missing = [item for item in objects if not mirror.holds(item.path, item.stamp)]
    unused: list[Unused] = []

    def copy(item: _Object) -> None:
        with mirror.incoming() as path:
            try:
                system.get_file(item.path, str(path))
            except Exception as error:  # the client raises its own, the transport's and the operating system's errors
                raise _explained(dataset, error, item.path) from error
            if path.stat().st_size != item.size:
                text = f"{item.path} came with {path.stat().st_size} of its {item.size} bytes"
                raise _failure(dataset, text, "run again; what was copied is kept")
            try:
                mirror.keep(path, item.path, item.relative, item.stamp)
            except NameTaken as error:
                key = f"{dataset.id}/{item.relative}"
                unused.append(Unused(dataset.id, key, str(error), "move that file elsewhere"))

    in_parallel(copy, missing, progress)
    mirror.prune({item.path for item in objects})
    return sorted(unused, key=lambda item: item.key)


def _connect(dataset: DatasetConfig) -> Any:
    from s3fs import S3FileSystem

    return S3FileSystem(
        key=dataset.aws_access_key_id,
        secret=dataset.aws_secret_access_key,
        endpoint_url=dataset.aws_endpoint_url,
        client_kwargs={"region_name": dataset.aws_region_name} if dataset.aws_region_name else {},
        config_kwargs=_PATIENCE,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _list(system: Any, dataset: DatasetConfig) -> list[_Object]:
    """List pictures and what may hold their captions, sorted by key. Hidden ones are passed over, as in a folder."""
    root = "/".join(part.strip("/") for part in (dataset.aws_bucket_name or "", dataset.aws_data_prefix) if part)
    try:
        found = system.find(root, detail=True)
    except Exception as error:  # as above
        raise _explained(dataset, error) from error
    objects = []
    for path, entry in sorted(found.items()):
        relative = path.removeprefix(root).lstrip("/")
        hidden = any(part.startswith(".") for part in relative.split("/"))
        if (
            entry["type"] == "file"
            and not hidden
            and (has_picture_suffix(relative) or _BESIDE_PICTURES.search(relative))
        ):
            stamp = f"{entry.get('ETag')} {entry.get('LastModified')}"
            objects.append(_Object(path, safe_path(relative), int(entry["size"]), stamp))
    if not any(has_picture_suffix(item.relative) for item in objects):
        others = f", {len(found)} other objects" if found else ""
        raise _failure(dataset, f"no pictures there{others}", "check aws_bucket_name and aws_data_prefix")
    return objects


def _explained(dataset: DatasetConfig, error: Exception, path: str = "") -> DatasetError:
    """Say what went wrong without the secrets that an error might repeat."""
    name = type(error).__name__
    text = str(error).replace("\n", " ")
    for secret in filter(None, (dataset.aws_secret_access_key, dataset.aws_access_key_id)):
        text = text.replace(secret, "(hidden)")
    text = f"{path}: {text}" if path else text
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"):
        remedy = "give aws_access_key_id and aws_secret_access_key, set the variables AWS_ACCESS_KEY_ID and "
        return _failure(dataset, text, remedy + "AWS_SECRET_ACCESS_KEY, or write them to ~/.aws/credentials")
    if isinstance(error, PermissionError):
        remedy = "check the access key, its secret, and what it may read; both may also come from the environment"
        return _failure(dataset, f"access was refused: {text}", remedy)
    if isinstance(error, FileNotFoundError):
        return _failure(dataset, f"is not there: {text}", "check aws_bucket_name and aws_endpoint_url")
    remedy = "check aws_endpoint_url, aws_region_name and the connection; what was copied is kept"
    return _failure(dataset, f"cannot be read: {name}: {text}", remedy)


def _failure(dataset: DatasetConfig, text: str, remedy: str) -> DatasetError:
    place = f"s3://{dataset.aws_bucket_name}/{dataset.aws_data_prefix}"
    return DatasetError(f"data set {dataset.id!r}: {place}: {text}\n    -> {remedy}")
