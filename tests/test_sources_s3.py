"""Data sets in S3-compatible storage, against a real server on loopback."""

import io
import logging
import os
import socket
import threading
import urllib.request

import boto3
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data.build import build_plan
from tuner.data.index import FileIndex
from tuner.data.scan import list_images
from tuner.data.sources.localise import localise, mirror_folder
from tuner.data.sources.mirror import open_mirror, read_record
from tuner.errors import ConfigError, DatasetError

KEY, SECRET = "AKIDOFTHETEST", "a-secret-of-the-test"


def picture(seed=0, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def nowhere():
    """An address at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_credentials_around(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no_config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no_credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def bucket(server):
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST")).close()
    client = boto3.client(
        "s3", endpoint_url=server, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    client.create_bucket(Bucket="pictures")
    return client


def check_keys_after(server, requests):
    """Have the server check keys from so many requests on."""
    plain = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{server}/moto-api/reset-auth", requests, plain, method="POST")
    urllib.request.urlopen(request).close()


def entry(server, **settings):
    values = {
        "id": "set",
        "type": "aws",
        "aws_bucket_name": "pictures",
        "aws_data_prefix": "photos",
        "aws_endpoint_url": server,
        "aws_region_name": "us-east-1",
        "aws_access_key_id": KEY,
        "aws_secret_access_key": SECRET,
    }
    return DatasetConfig.model_validate(values | settings)


def put(bucket, **files):
    for name, content in files.items():
        bucket.put_object(Bucket="pictures", Key=name, Body=content)


def contents(folder):
    """Relative path -> bytes of every file that is not the mirror's own."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if not name.startswith(".")}


def test_pictures_and_what_holds_their_captions_are_copied(server, bucket, tmp_path):
    files = {
        "photos/a.png": picture(1),
        "photos/deep/er/b c.jpg": picture(2, "JPEG"),
        "photos/a.txt": b"a cat",
        "photos/captions.parquet": b"PAR1",
        "photos/captions.jsonl": b"{}",
        "photos/captions.csv": b"a,b",
        "photos/empty.png": b"",
        "photos/film.mp4": b"film",
        "photos/.hidden.png": picture(3),
        "photos/.cache/c.png": picture(3),
        "photos2/d.png": picture(4),
        "e.png": picture(5),
    }
    put(bucket, **files)
    reports = []
    found = localise(entry(server), tmp_path, progress=lambda done, total: reports.append((done, total)))
    folder = tmp_path / "sources" / "set"
    assert found.dataset.folder == folder
    assert found.unused == ()
    names = ["a.png", "a.txt", "captions.csv", "captions.jsonl", "captions.parquet", "deep/er/b c.jpg", "empty.png"]
    assert contents(folder) == {name: files[f"photos/{name}"] for name in names}
    assert [item.relative for item in list_images(folder).images] == ["a.png", "deep/er/b c.jpg", "empty.png"]
    assert reports == [(done, 7) for done in range(1, 8)]


def test_a_whole_bucket(server, bucket, tmp_path):
    put(bucket, **{"a.png": picture(1), "b/c.png": picture(2)})
    folder = localise(entry(server, aws_data_prefix=""), tmp_path).dataset.folder
    assert contents(folder) == {"a.png": picture(1), "b/c.png": picture(2)}


def test_only_what_changed_is_copied_again(server, bucket, tmp_path):
    put(bucket, **{"photos/a.png": picture(1), "photos/b.png": picture(2), "photos/c.png": picture(3)})
    folder = localise(entry(server), tmp_path).dataset.folder
    before = {name: (folder / name).stat().st_mtime_ns for name in ("a.png", "b.png", "c.png")}
    put(bucket, **{"photos/b.png": picture(20)})  # the same size, other bytes
    (folder / "c.png").write_bytes(b"cut off")
    reports = []
    localise(entry(server), tmp_path, progress=lambda done, total: reports.append((done, total)))
    assert reports == [(1, 2), (2, 2)]
    assert contents(folder) == {"a.png": picture(1), "b.png": picture(20), "c.png": picture(3)}
    assert (folder / "a.png").stat().st_mtime_ns == before["a.png"]


def test_what_vanished_is_removed_and_what_others_put_there_is_not(server, bucket, tmp_path):
    put(bucket, **{"photos/a.png": picture(1), "photos/b/c.png": picture(2), "photos/d/e.png": picture(3)})
    folder = localise(entry(server), tmp_path).dataset.folder
    (folder / "mine.png").write_bytes(picture(9))
    (folder / "d" / "mine.txt").write_bytes(b"mine")
    for name in ("photos/b/c.png", "photos/d/e.png"):
        bucket.delete_object(Bucket="pictures", Key=name)
    localise(entry(server), tmp_path)
    assert contents(folder) == {"a.png": picture(1), "mine.png": picture(9), "d/mine.txt": b"mine"}
    assert not (folder / "b").exists()


def test_a_file_of_somebody_else_is_not_overwritten(server, bucket, tmp_path):
    put(bucket, **{"photos/a.png": picture(1), "photos/b.png": picture(2)})
    folder = tmp_path / "sources" / "set"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"mine")
    found = localise(entry(server), tmp_path)
    assert contents(folder) == {"a.png": b"mine", "b.png": picture(2)}
    assert [(item.key, item.reason, item.remedy) for item in found.unused] == [
        ("set/a.png", f"{folder} holds a file of its name that comes from elsewhere", "move that file elsewhere")
    ]


def test_an_interrupted_copy_goes_on_where_it_stopped(server, bucket, tmp_path):
    put(bucket, **{f"photos/{number:03d}.png": picture(number) for number in range(40)})

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        localise(entry(server), tmp_path, progress=stop)
    folder = tmp_path / "sources" / "set"
    first = contents(folder)
    assert 5 <= len(first) < 40
    assert all(content == picture(int(name[:3])) for name, content in first.items())
    reports = []
    localise(entry(server), tmp_path, progress=lambda done, total: reports.append((done, total)))
    assert reports[-1] == (40 - len(first), 40 - len(first))
    assert contents(folder) == {f"{number:03d}.png": picture(number) for number in range(40)}


def test_names_stay_below_the_folder(server, bucket, tmp_path):
    put(bucket, **{"photos/a.png": picture(1), "photos/a\\..\\b:c.png": picture(2), "photos//tmp/d.png": picture(3)})
    put(bucket, **{"photos/x?/e.png": picture(4), "photos/x*/e.png": picture(5), "photos/x?/e.txt": b"e"})
    folder = localise(entry(server), tmp_path).dataset.folder
    files = contents(folder)
    assert sorted(files.values()) == sorted([*map(picture, range(1, 6)), b"e"])
    assert not [name for name in files if set(name) & set('\\:?*"<>|') or ".." in name.split("/")]
    (text,) = [name for name in files if name.endswith(".txt")]
    assert files[text.replace(".txt", ".png")] == picture(4)


def test_keys_from_the_environment(server, bucket, tmp_path, monkeypatch):
    put(bucket, **{"photos/a.png": picture(1)})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    settings = entry(server, aws_access_key_id=None, aws_secret_access_key=None)
    assert contents(localise(settings, tmp_path).dataset.folder) == {"a.png": picture(1)}


def test_keys_from_a_file(server, bucket, tmp_path, monkeypatch):
    put(bucket, **{"photos/a.png": picture(1)})
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    settings = entry(server, aws_access_key_id=None, aws_secret_access_key=None)
    assert contents(localise(settings, tmp_path).dataset.folder) == {"a.png": picture(1)}


def test_no_keys_at_all(server, bucket, tmp_path):
    settings = entry(server, aws_access_key_id=None, aws_secret_access_key=None)
    with pytest.raises(DatasetError, match=r"s3://pictures/photos: .*credentials(.|\n)*-> give aws_access_key_id and"):
        localise(settings, tmp_path)


def test_a_key_without_its_secret(server, tmp_path):
    with pytest.raises(ConfigError, match="aws_secret_access_key: a key and its secret belong together"):
        localise(entry(server, aws_secret_access_key=None), tmp_path)


def test_wrong_keys(server, bucket, tmp_path):
    put(bucket, **{"photos/a.png": picture(1)})
    check_keys_after(server, b"0")
    try:
        with pytest.raises(DatasetError, match=r"access was refused: .*\n    -> check the access key") as caught:
            localise(entry(server), tmp_path)
    finally:
        check_keys_after(server, b"inf")
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_missing_bucket(server, bucket, tmp_path):
    with pytest.raises(DatasetError, match=r"^data set 'set': s3://none/photos: is not there: .*\n    -> check aws_b"):
        localise(entry(server, aws_bucket_name="none"), tmp_path)


def test_an_empty_prefix_removes_nothing(server, bucket, tmp_path):
    put(bucket, **{"photos/a.png": picture(1)})
    folder = localise(entry(server), tmp_path).dataset.folder
    bucket.delete_object(Bucket="pictures", Key="photos/a.png")
    put(bucket, **{"photos/a.txt": b"a cat"})
    with pytest.raises(DatasetError, match="no pictures there, 1 other objects\n    -> check aws_bucket_name"):
        localise(entry(server), tmp_path)
    assert contents(folder) == {"a.png": picture(1)}


def test_a_host_that_cannot_be_reached(nowhere, tmp_path):
    with pytest.raises(DatasetError, match=r"cannot be read: EndpointConnectionError(.|\n)*-> check aws_endpoint_url"):
        localise(entry(nowhere), tmp_path)


def test_errors_do_not_repeat_secrets(nowhere, tmp_path):
    with pytest.raises(DatasetError, match=r"Could not connect .*/\(hidden\)/\(hidden\)") as caught:
        localise(entry(f"{nowhere}/{KEY}/{SECRET}"), tmp_path)
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)


def test_secrets_are_written_nowhere(server, bucket, tmp_path, caplog):
    put(bucket, **{"photos/a.png": picture(1)})
    with caplog.at_level(logging.DEBUG, logger="tuner"):
        folder = localise(entry(server), tmp_path).dataset.folder
    assert SECRET not in caplog.text
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert SECRET.encode() not in written
    assert KEY.encode() not in written


def test_without_a_network_what_was_copied_is_taken(server, nowhere, bucket, tmp_path, caplog):
    put(bucket, **{"photos/a.png": picture(1), "photos/a.txt": b"a cat"})
    with caplog.at_level(logging.INFO, logger="tuner"):
        assert localise(entry(nowhere), tmp_path, offline=True).dataset is None
        folder = localise(entry(server), tmp_path).dataset.folder
        assert localise(entry(nowhere), tmp_path, offline=True).dataset.folder == folder
    assert [record.getMessage() for record in caplog.records if record.name.startswith("tuner.")] == [
        "data set set: nothing is fetched now; nothing was fetched yet",
        f"data set set: nothing is fetched now; 2 files that were fetched before, into {folder}",
    ]
    assert contents(folder) == {"a.png": picture(1), "a.txt": b"a cat"}


def plan_of(dataset, cache_dir):
    index = FileIndex(cache_dir)
    try:
        return build_plan(
            [dataset], batch_size=1, accumulation=1, alignment=8, aspect_rounding=2, keep_small_buckets=True, seed=0,
            index=index,
        )  # fmt: skip
    finally:
        index.close()


def test_a_plan_depends_on_the_mirror_alone(server, nowhere, bucket, tmp_path):
    rows = [{"file": f"{name}.png", "text": f"caption {name}"} for name in "abc"]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "captions.parquet")
    put(bucket, **{"photos/captions.parquet": (tmp_path / "captions.parquet").read_bytes()})
    put(bucket, **{"photos/a.png": picture(1), "photos/deep/b.png": picture(2), "photos/d.png": picture(3)})
    table = {
        "path": "captions.parquet",
        "filename_column": "file",
        "caption_column": "text",
        "identifier_includes_extension": True,
    }
    captions = {"caption_strategy": "parquet", "parquet": table, "resolution": 8}
    plan = plan_of(localise(entry(server, **captions), tmp_path).dataset, tmp_path)
    samples = [(sample.key, sample.captions) for bucket in plan.buckets for sample in bucket.samples]
    assert samples == [("set/a.png", ("caption a",)), ("set/deep/b.png", ("caption b",))]
    assert [(item.key, item.reason) for item in plan.unused] == [("set/d.png", "has no row in captions.parquet")]
    again = plan_of(localise(entry(nowhere, **captions), tmp_path, offline=True).dataset, tmp_path)
    assert again.fingerprint() == plan.fingerprint()


def test_a_folder_of_its_own(server, bucket, tmp_path):
    put(bucket, **{"photos/a.png": picture(1)})
    settings = entry(server, cache_dir=tmp_path / "elsewhere")
    assert mirror_folder(settings, tmp_path) == tmp_path / "elsewhere"
    assert contents(localise(settings, tmp_path).dataset.folder) == {"a.png": picture(1)}
    assert list(read_record(tmp_path / "elsewhere")) == ["pictures/photos/a.png"]


def test_one_writer_at_a_time_has_a_mirror(server, bucket, tmp_path):
    put(bucket, **{"photos/a.png": picture(1)})
    folder = tmp_path / "sources" / "set"
    waiting = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: waiting.set() if "waiting" in record.getMessage() else None
    logger = logging.getLogger("tuner.data.sources.mirror")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    other = threading.Thread(target=localise, args=(entry(server), tmp_path))
    try:
        with open_mirror(folder):
            other.start()
            assert waiting.wait(60)
            assert contents(folder) == {}
        other.join()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert contents(folder) == {"a.png": picture(1)}
