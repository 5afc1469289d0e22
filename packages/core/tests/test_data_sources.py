"""Mirrors of pictures from elsewhere: names, records, interruptions, and what is missing."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath

import pytest

from tuner.config.datasets import DatasetConfig
from tuner.data.captions import open_captions
from tuner.data.sources.localise import localise, mirror_folder, source_problems
from tuner.data.sources.mirror import NameTaken, open_mirror, read_record
from tuner.data.sources.names import safe_path
from tuner.data.sources.parallel import in_parallel
from tuner.errors import DatasetError

REMOTE = {
    "aws": {"aws_bucket_name": "pictures"},
    "huggingface": {"dataset_name": "owner/name", "caption_strategy": "huggingface"},
}


@pytest.mark.parametrize("path", ["a.png", "a/b c/d.e.png", "ä/日本.jpg", "no suffix", "a..b/c.txt"])
def test_safe_paths_stay_as_they_are(path):
    assert safe_path(path) == path


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@pytest.mark.parametrize(
    ("path", "distinction", "expected"),
    [
        ("../a.png", "", f"_-{digest('..')}/a.png"),
        ("/etc/a.png", "", f"etc-{digest('/etc')}/a.png"),
        ("/a.png", "", f"{digest('')}/a.png"),
        ("a:b?.png", "", f"a_b_-{digest('a:b??')}.png"),
        ("a/b.png", "id=1", f"a/b-{digest('b?id=1')}.png"),
    ],
)
def test_what_is_changed_gets_a_hash_of_what_it_was(path, distinction, expected):
    assert safe_path(path, distinction) == expected


HOSTILE = [
    "../../etc/passwd", "..", ".", "", "/", "//", "/etc/passwd", "a/../../b.png", "a/./b.png", "a//b.png",
    "a\\..\\b.png", "C:\\a.png", "C:/a.png", ".mirror.jsonl", ".incoming/a.png", "a/.hidden/b.png", "a\x00b.png",
    "a\nb.png", "a\x1b[2Jb.png", "a\udcffb.png", "x" * 5000 + ".png", "é" * 300 + "/" + "日" * 300 + ".png", "a .png",
    "a./b.png", "a /b.png", "...", "a.p?g", "a.p*g", 'a"b.png', "a|b.png", "<a>.png", "-", "~/a.png", "a.png/", "..png",
    "a/...png", "/a.png", "//a.png",
]  # fmt: skip


def test_no_name_leaves_its_folder(tmp_path):
    seen = {}
    for path in HOSTILE:
        safe = safe_path(path)
        parts = PurePosixPath(safe).parts
        assert parts
        assert not safe.startswith("/")
        assert not [part for part in parts if part.startswith(".") or part.endswith((".", " "))]
        assert not set(safe) & set('<>:"|?*\\\x00\n\x1b')
        assert all(len(part.encode()) <= 255 for part in parts)
        target = tmp_path / "folder" / safe
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.encode(errors="replace").decode())
        assert seen.setdefault(safe, path) == path
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_picture_and_its_text_file_still_belong_together():
    for path in HOSTILE:
        if path and not path.endswith("/"):
            picture, text = safe_path(f"{path}.png"), safe_path(f"{path}.txt")
            assert picture.removesuffix(".png") == text.removesuffix(".txt")


def keep(mirror, address, relative, content, stamp="1"):
    with mirror.incoming() as path:
        path.write_bytes(content)
        mirror.keep(path, address, relative, stamp)


def test_what_a_mirror_holds(tmp_path):
    with open_mirror(tmp_path / "m") as mirror:
        keep(mirror, "x", "a/b.png", b"one")
        assert mirror.holds("x", "1")
        assert not mirror.holds("x", "2")
        assert not mirror.holds("y", "1")
    with open_mirror(tmp_path / "m") as mirror:
        assert (mirror.holds("x", "1"), mirror.path_of("x")) == (True, "a/b.png")
        (tmp_path / "m" / "a" / "b.png").write_bytes(b"longer")
        assert not mirror.holds("x", "1")
        keep(mirror, "x", "c.png", b"two", "2")
        assert mirror.holds("x", "2")
    assert read_record(tmp_path / "m")["x"] == ("c.png", 3, "2")
    # The first file was changed by somebody, so it is no longer the mirror's to remove.
    assert (tmp_path / "m" / "a" / "b.png").read_bytes() == b"longer"


def test_a_new_name_replaces_the_old_one(tmp_path):
    with open_mirror(tmp_path) as mirror:
        keep(mirror, "x", "a/b.png", b"one")
        keep(mirror, "x", "c.png", b"two")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "c.png").read_bytes() == b"two"


def test_names_are_given_once(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"mine")
    with open_mirror(tmp_path) as mirror:
        keep(mirror, "x", "a.png", b"x")
        for relative in ("a.png", "mine.png"):
            with pytest.raises(NameTaken, match="holds a file of its name that comes from elsewhere"):
                keep(mirror, "y", relative, b"y")
    assert (tmp_path / "a.png").read_bytes() == b"x"
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    assert not (tmp_path / ".incoming").exists()


def test_a_line_that_was_cut_off_costs_one_file(tmp_path):
    with open_mirror(tmp_path) as mirror:
        for name in "ab":
            keep(mirror, name, f"{name}.png", b"x")
    record = tmp_path / ".mirror.jsonl"
    record.write_bytes(record.read_bytes()[:-10] + b'\n[1]\n{"address": 3}\n\xff\n')
    assert read_record(tmp_path) == {"a": ("a.png", 1, "1"), "b": ("b.png", -1, "1")}
    with open_mirror(tmp_path) as mirror:
        assert (mirror.holds("a", "1"), mirror.holds("b", "1")) == (True, False)
        keep(mirror, "b", "b.png", b"y")
    assert (tmp_path / "b.png").read_bytes() == b"y"


KILLED = """
import os, signal, sys
from pathlib import Path
from tuner.data.sources.mirror import Mirror, open_mirror
folder, moment = Path(sys.argv[1]), sys.argv[2]
with open_mirror(folder) as mirror:
    for number in range(100):
        with mirror.incoming() as path:
            path.write_bytes(bytes([number]) * 1000)
            if number == 50:
                note, notes = mirror._note, []
                def dies(address, kept):
                    notes.append(kept)
                    if moment == {1: "before the claim", 2: "after the move"}[len(notes)]:
                        os.kill(os.getpid(), signal.SIGKILL)
                    note(address, kept)
                    if moment == "after the claim":
                        os.kill(os.getpid(), signal.SIGKILL)
                mirror._note = dies
            mirror.keep(path, str(number), f"{number}.bin", "1")
"""


@pytest.mark.parametrize("moment", ["before the claim", "after the claim", "after the move"])
def test_a_killed_process_leaves_a_mirror_that_goes_on(tmp_path, moment):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), moment], check=False, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with open_mirror(tmp_path) as mirror:
        held = [number for number in range(100) if mirror.holds(str(number), "1")]
        assert held == list(range(50))
        for number in range(50, 100):
            keep(mirror, str(number), f"{number}.bin", bytes([number]) * 1000)
        assert all((tmp_path / f"{number}.bin").read_bytes() == bytes([number]) * 1000 for number in range(100))
        assert mirror.prune({"1"}) == 99
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["1.bin"]


def test_a_failure_ends_parallel_work():
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda item: 1 / item, range(10), lambda done, total: None)


def test_an_interruption_ends_parallel_work():
    begun, interrupted = [], threading.Event()

    def work(item):
        begun.append(item)
        if item > 0:
            interrupted.wait()
            sum(range(50_000))  # long enough for all of them to take seconds

    def interrupt(done, total):
        interrupted.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, range(5_000), interrupt)
    assert len(begun) < 5_000


def test_a_local_data_set_stays_where_it_is(tmp_path):
    dataset = DatasetConfig(id="set", instance_data_dir=tmp_path)
    found = localise(dataset, tmp_path / "cache")
    assert found.dataset is dataset
    assert found.unused == ()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"id": "a set"}, "cache/sources/a set"),
        ({"id": ".."}, "cache/sources/_-b43b64d8ee9bbf83"),
        ({"id": "set", "cache_dir": "own"}, "own"),
    ],
)
def test_where_mirrors_are(settings, folder):
    dataset = DatasetConfig.model_validate({"type": "aws", "aws_bucket_name": "b", **settings})
    assert mirror_folder(dataset, Path("cache")) == Path(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "pictures.csv").write_text("url,caption\na.png,a\n")
    (tmp_path / "file").touch()
    dataset = DatasetConfig(id="set", type="csv", csv_file=tmp_path / "pictures.csv", csv_cache_dir=tmp_path / "file")
    with pytest.raises(
        DatasetError, match=r"^data set 'set': its pictures cannot be written to .*file: .*exists"
    ) as caught:
        localise(dataset, tmp_path)
    assert "\n    -> make room, allow writing there, or give another folder" in str(caught.value)


@pytest.mark.parametrize(("kind", "package", "extra"), [("aws", "s3fs", "s3"), ("huggingface", "datasets", "datasets")])
def test_a_missing_package_is_named_with_its_cure(tmp_path, monkeypatch, kind, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    dataset = DatasetConfig.model_validate({"id": "set", "type": kind, **REMOTE[kind]})
    (problem,) = source_problems([dataset], tmp_path, "data.json")
    assert str(problem) == (
        f"data.json, data set 'set': type: {kind} needs the package {package}, which is not installed\n"
        f"    -> pip install 'tuner-core[{extra}]'"
    )


def test_parquet_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    dataset = DatasetConfig(
        id="set", instance_data_dir=tmp_path, caption_strategy="parquet", parquet={"path": "t.parquet"}
    )
    with pytest.raises(DatasetError, match=r"needs the package pyarrow(.|\n)*pip install 'tuner-core\[parquet\]'"):
        open_captions(dataset, [])


def test_importing_it_imports_no_optional_package():
    code = (
        "import sys, json, tuner.data.sources.localise, tuner.data.captions; "
        "names = ('s3fs', 'datasets', 'pyarrow', 'fsspec', 'torch'); "
        "print(json.dumps([name for name in names if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert json.loads(done.stdout) == []
