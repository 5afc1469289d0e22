"""The memo of headers and hashes, whatever befalls its file."""

import hashlib
import logging
import os
import sqlite3
import threading

import pytest

from tuner.data.index import FileIndex, HeaderRow


def row(path, width=8):
    return HeaderRow(path, 10, 20, width, 6, None)


def reopened(index):
    index.close()
    return FileIndex(index.path.parent)


def test_headers_survive_closing(index):
    rows = [row("/a/b.png"), HeaderRow("/a/c.png", 1, 2, 0, 0, "is empty (0 bytes)")]
    index.store_headers(rows)
    index.store_headers([row("/a/b.png", 9)])
    assert reopened(index).headers_below("/a") == {"/a/b.png": row("/a/b.png", 9), "/a/c.png": rows[1]}


def test_headers_below_a_folder_are_no_others(index):
    index.store_headers(
        [row(path) for path in ("/a/b.png", "/a/c/d.png", "/a.png", "/a0/b.png", "/ab/c.png", "/é/x.png")]
    )
    assert set(index.headers_below("/a")) == {"/a/b.png", "/a/c/d.png"}
    assert set(index.headers_below("/é/")) == {"/é/x.png"}
    assert len(index.headers_below("/")) == 6


def test_a_hash_is_read_once_per_content(index, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"first")
    os.utime(path, ns=(1, 1))
    assert index.content_hash(path) == hashlib.blake2b(b"first", digest_size=16).hexdigest()
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    assert reopened(index).content_hash(path) == hashlib.blake2b(b"first", digest_size=16).hexdigest()


@pytest.mark.parametrize("content", [b"other", b"longer"])
def test_a_changed_file_is_read_again(index, tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(b"first")
    os.utime(path, ns=(1, 1))
    index.content_hash(path)
    path.write_bytes(content)
    os.utime(path, ns=(2, 2))
    assert index.content_hash(path) == hashlib.blake2b(content, digest_size=16).hexdigest()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_a_damaged_file_is_moved_aside(tmp_path, caplog, content):
    (tmp_path / "files.sqlite").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        index = FileIndex(tmp_path)
    index.store_headers([row("/a/b.png")])
    assert set(reopened(index).headers_below("/a")) == {"/a/b.png"}
    assert (tmp_path / "files.damaged").read_bytes() == content
    assert "is damaged" in caplog.text


def test_a_file_that_is_damaged_in_its_middle_is_moved_aside_when_found_out(index, caplog):
    index.store_headers([row(f"/a/{n:06d}.png") for n in range(5000)])
    index.close()
    data = bytearray(index.path.read_bytes())
    data[3 * 4096 :] = b"\xff" * (len(data) - 3 * 4096)
    index.path.write_bytes(data)
    index = FileIndex(index.path.parent)
    assert index.headers_below("/a") == {}
    index.store_headers([row("/a/b.png")])
    assert set(reopened(index).headers_below("/a")) == {"/a/b.png"}
    assert index.path.with_suffix(".damaged").exists()


def test_a_file_of_another_version_is_begun_anew(index):
    index.store_headers([row("/a/b.png")])
    index.close()
    with sqlite3.connect(index.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    index = FileIndex(index.path.parent)
    assert index.headers_below("/a") == {}
    index.store_headers([row("/a/b.png")])
    assert set(index.headers_below("/a")) == {"/a/b.png"}


def test_a_locked_file_is_passed_over(index, caplog, monkeypatch):
    index.store_headers([row("/a/b.png")])
    index.close()
    monkeypatch.setattr("tuner.data.index._LOCK_PATIENCE_S", 0.01)
    index = FileIndex(index.path.parent)
    other = sqlite3.connect(index.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING):
        index.store_headers([row("/a/c.png")])
        assert index.headers_below("/a") == {}
    other.execute("ROLLBACK")
    other.close()
    assert "locked" in caplog.text
    assert set(index.headers_below("/a")) == {"/a/b.png"}


def test_where_no_file_can_be_written_the_memo_lives_in_memory(tmp_path, caplog):
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        index = FileIndex(tmp_path / "cache")
    index.store_headers([row("/a/b.png")])
    assert set(index.headers_below("/a")) == {"/a/b.png"}
    assert "kept in memory" in caplog.text


def test_threads_share_an_index(index, tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(40)]
    for path in paths:
        path.write_bytes(path.name.encode())
    failures = []

    def work():
        for path in paths:
            if index.content_hash(path) != hashlib.blake2b(path.name.encode(), digest_size=16).hexdigest():
                failures.append(path)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sqlite3.connect(index.path) as connection:
        assert connection.execute("SELECT count(*) FROM contents").fetchone() == (40,)
    connection.close()
    assert failures == []
