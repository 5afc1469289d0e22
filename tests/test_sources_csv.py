"""Data sets that a CSV file lists, against a real web server on loopback that also fails."""

import csv
import io
import logging
import re
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data.captions import MissingCaption, open_captions
from tuner.data.scan import list_images
from tuner.data.sources.localise import localise, source_problems
from tuner.errors import ConfigError, DatasetError
from tuner.testing.servers import Quiet, address_of, serving


def picture(seed=0, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


class Handler(Quiet, BaseHTTPRequestHandler):
    """Serves `server.files`; some paths fail. Remembers what it was asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/hang_up"):
            self.connection.shutdown(socket.SHUT_RDWR)
        elif path.startswith("/busy") and self.server.asked.count(self.path) == 1:
            self.send_error(503)
        elif path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/moved"))
            self.end_headers()
        elif (name := path.removeprefix("/busy").removeprefix("/short")) in self.server.files:
            content = self.server.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if path.startswith("/short") else content)
        else:
            self.send_error(404)


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked = {}, []
    server.address = address_of(server)
    server.folder = f"127.0.0.1_{server.server_port}"
    with serving(server):
        yield server


def entry(tmp_path, rows, header=("url", "caption"), **settings):
    with (tmp_path / "pictures.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    values = {"id": "set", "type": "csv", "csv_file": tmp_path / "pictures.csv", "caption_strategy": "csv"}
    return DatasetConfig.model_validate(values | settings)


def captions(dataset):
    """Relative path -> captions of the pictures in the folder."""
    names = [item.relative for item in list_images(dataset.folder).images]
    of = open_captions(dataset, names)
    return {name: of(name, dataset.folder / name) for name in names}


def unused(found):
    return [(item.key, item.reason) for item in found.unused]


def test_pictures_are_fetched_with_their_captions(web, tmp_path):
    web.files |= {"/a/one.png": picture(1), "/two.JPG": picture(2, "JPEG")}
    rows = [(f"{web.address}/a/one.png", "a red cat, sitting"), (f"{web.address}/two.JPG", ' two\n"lines" ')]
    reports = []
    found = localise(entry(tmp_path, rows), tmp_path, progress=lambda done, total: reports.append((done, total)))
    folder = tmp_path / "sources" / "set"
    assert (found.dataset.folder, found.unused) == (folder, ())
    assert captions(found.dataset) == {
        f"{web.folder}/a/one.png": ("a red cat, sitting",),
        f"{web.folder}/two.JPG": ('two\n"lines"',),
    }
    assert (folder / web.folder / "a" / "one.png").read_bytes() == picture(1)
    assert (folder / web.folder / "two.JPG").read_bytes() == picture(2, "JPEG")
    assert reports == [(1, 2), (2, 2)]


def test_what_cannot_be_had_is_listed_and_the_rest_goes_on(web, tmp_path):
    web.files |= {"/a.png": picture(1), "/page.png": b"<html>Please log in</html>", "/empty.png": b""}
    web.files |= {"/cut.png": picture(1)[:20]}
    names = ["a.png", "gone.png", "hang_up.png", "page.png", "empty.png", "short/a.png", "cut.png"]
    rows = [(f"{web.address}/{name}", name) for name in names]
    rows += [("", "none"), ("ftp://127.0.0.1/a.png", "ftp"), ("http://[::1/a.png", "broken"), ("no/file.png", "no")]
    rows += [("http://a..b/c.png", "label"), ("x" * 5000, "long"), (f"http://127.0.0.1:99999/{'y' * 9}", "port")]
    found = localise(entry(tmp_path, rows), tmp_path)
    assert captions(found.dataset) == {f"{web.folder}/a.png": ("a.png",)}
    no_picture = "is no picture in a format that is read (JPEG, PNG, WEBP, BMP, GIF, TIFF), or its header is damaged"
    assert [(key, reason) for key, reason in unused(found) if key != "set/line 8"] == [
        ("set/line 3", "its server answers 404"),
        ("set/line 4", "its server cannot be reached, or breaks off"),
        ("set/line 5", f"what is at its address {no_picture}"),
        ("set/line 6", "what is at its address is empty (0 bytes)"),
        ("set/line 7", "its server cannot be reached, or breaks off"),
        ("set/line 9", "its row has no address"),
        ("set/line 10", "ftp:// addresses are not read"),
        ("set/line 11", "its address cannot be followed"),
        ("set/line 12", "there is no file of its path"),
        ("set/line 13", "its address cannot be followed"),
        ("set/line 14", "there is no file of its path"),
        ("set/line 15", "its address cannot be followed"),
    ]
    assert dict(unused(found))["set/line 8"].startswith("what is at its address is ")
    assert all(item.remedy and item.dataset == "set" for item in found.unused)


def test_a_busy_server_is_asked_again_and_redirections_are_followed(web, tmp_path):
    web.files |= {"/a.png": picture(1), "/b.png": picture(2)}
    found = localise(
        entry(tmp_path, [(f"{web.address}/busy/a.png", "a"), (f"{web.address}/moved/b.png", "b")]), tmp_path
    )
    assert captions(found.dataset) == {f"{web.folder}/busy/a.png": ("a",), f"{web.folder}/moved/b.png": ("b",)}
    assert web.asked.count("/busy/a.png") == 2


def test_only_what_is_new_is_fetched_and_what_is_no_longer_listed_is_removed(web, tmp_path):
    web.files |= {"/a.png": picture(1), "/b.png": picture(2), "/c.png": picture(3)}
    address = web.address
    folder = localise(entry(tmp_path, [(f"{address}/a.png", "a"), (f"{address}/b.png", "b")]), tmp_path).dataset.folder
    (folder / web.folder / "mine.png").write_bytes(picture(9))
    web.asked.clear()
    found = localise(entry(tmp_path, [(f"{address}/c.png", "c"), (f"{address}/b.png", "new")]), tmp_path)
    assert web.asked == ["/c.png"]
    (folder / web.folder / "mine.png").rename(folder / "mine.png")
    of = open_captions(found.dataset, names := [item.relative for item in list_images(folder).images])
    assert names == [f"{web.folder}/b.png", f"{web.folder}/c.png", "mine.png"]
    assert [of(name, folder / name) for name in names[:2]] == [("new",), ("c",)]
    with pytest.raises(MissingCaption, match="has no row in the csv data set"):
        of("mine.png", folder / "mine.png")


def test_a_failure_is_tried_again_the_next_time(web, tmp_path):
    web.files["/a.png"] = picture(1)
    settings = entry(tmp_path, [(f"{web.address}/a.png", "a"), (f"{web.address}/b.png", "b")])
    assert unused(localise(settings, tmp_path)) == [("set/line 3", "its server answers 404")]
    web.files["/b.png"] = picture(2)
    found = localise(settings, tmp_path)
    assert found.unused == ()
    assert captions(found.dataset) == {f"{web.folder}/a.png": ("a",), f"{web.folder}/b.png": ("b",)}


def test_names_follow_the_addresses_and_stay_below_the_folder(web, tmp_path):
    web.files |= {"/image": picture(1), "/a%20cat.png": picture(2), "/x.png": picture(3), "/": picture(4, "WEBP")}
    outside = "x%2F..%2F..%2F..%2F..%2Fout.png"
    web.files |= {f"/{outside}": picture(5), "/up.png": picture(6)}
    names = ["image?id=1", "image?id=2", "a%20cat.png", "x.png", "", outside, "../../../up.png"]
    rows = [(f"{web.address}/{name}", f"caption of {name}") for name in names]
    found = localise(entry(tmp_path, rows), tmp_path / "cache")
    assert found.unused == ()
    files = {caption: name for name, (caption,) in captions(found.dataset).items()}
    assert sorted(files) == sorted(f"caption of {name}".strip() for name in names)
    assert files["caption of x.png"] == f"{web.folder}/x.png"
    assert files["caption of a%20cat.png"] == f"{web.folder}/a cat.png"
    assert re.fullmatch(rf"{web.folder}/image-[0-9a-f]{{16}}\.png", files["caption of image?id=1"])
    assert re.fullmatch(rf"{web.folder}/_-[0-9a-f]{{16}}\.webp", files["caption of"])
    assert re.fullmatch(rf"{web.folder}/x_.._.._.._.._out-[0-9a-f]{{16}}\.png", files[f"caption of {outside}"])
    assert re.fullmatch(rf"{web.folder}/_/_/_-[0-9a-f]{{16}}/up\.png", files["caption of ../../../up.png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "pictures.csv"]


def test_paths_are_relative_to_the_file_and_are_linked(tmp_path):
    for name in ("pictures/a.png", "b", "elsewhere/c.png"):
        (tmp_path / "csv" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "csv" / name).write_bytes(picture(1))
    absolute = str(tmp_path / "csv" / "elsewhere" / "c.png")
    rows = [("pictures/a.png", "a"), ("b", "b"), (absolute, "c"), ("../csv/pictures/a.png", "again")]
    found = localise(entry(tmp_path / "csv", rows), tmp_path / "cache")
    files = captions(found.dataset)
    assert found.unused == ()
    assert sorted(files.values()) == [("a",), ("again",), ("b",), ("c",)]
    assert {"pictures/a.png", "b.png"} < set(files)
    assert all(name.endswith(("/a.png", "b.png", "/c.png")) for name in files)
    links = [found.dataset.folder / name for name in files]
    assert all(link.is_symlink() and link.read_bytes() == picture(1) for link in links)
    localise(entry(tmp_path / "csv", rows[:1]), tmp_path / "cache")
    assert [item.relative for item in list_images(found.dataset.folder).images] == ["pictures/a.png"]
    assert (tmp_path / "csv" / "elsewhere" / "c.png").read_bytes() == picture(1)


def test_a_repeated_address_counts_once(web, tmp_path, caplog):
    web.files["/a.png"] = picture(1)
    with caplog.at_level(logging.WARNING):
        found = localise(entry(tmp_path, [(f"{web.address}/a.png", str(number)) for number in range(3)]), tmp_path)
    assert captions(found.dataset) == {f"{web.folder}/a.png": ("0",)}
    text = f"set: 2 rows of {tmp_path / 'pictures.csv'} repeat the address of an earlier one, which counts"
    assert [record.getMessage() for record in caplog.records] == [text]


def test_an_empty_caption_is_a_missing_one(web, tmp_path):
    web.files["/a.png"] = picture(1)
    found = localise(entry(tmp_path, [(f"{web.address}/a.png", " ")]), tmp_path)
    with pytest.raises(MissingCaption, match="its caption in the csv data set is empty"):
        captions(found.dataset)


def test_other_columns_folders_and_strategies(web, tmp_path):
    web.files["/a_red_cat.png"] = picture(1)
    settings = {"csv_url_column": "where", "csv_cache_dir": tmp_path / "mine", "caption_strategy": "filename"}
    found = localise(entry(tmp_path, [("x", f"{web.address}/a_red_cat.png")], ("id", "where"), **settings), tmp_path)
    assert captions(found.dataset) == {f"{web.folder}/a_red_cat.png": ("a red cat",)}
    assert found.dataset.folder == tmp_path / "mine"


def test_nothing_to_be_had_is_an_error(web, tmp_path):
    with pytest.raises(DatasetError) as caught:
        localise(entry(tmp_path, [(f"{web.address}/a.png", "a"), (f"{web.address}/b.png", "b")]), tmp_path)
    assert str(caught.value) == (
        f"data set 'set': none of the 2 pictures of {tmp_path / 'pictures.csv'} can be had; the first, set/line 2: "
        "its server answers 404\n    -> correct or remove the address; or run again later"
    )


def test_a_server_that_has_gone_is_not_asked_for_every_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nothing listens
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        rows = [("a.png", "a"), *((f"{address}/{number}.png", str(number)) for number in range(200))]
        found = localise(entry(tmp_path, rows), tmp_path)
    reasons = [reason for _, reason in unused(found)]
    assert len(reasons) == 200
    tried = reasons.count("its server cannot be reached, or breaks off")
    assert 20 <= tried < 40  # those under way when the twentieth failed
    assert reasons.count("its server has stopped answering") == 200 - tried


def test_keys_in_addresses_are_written_nowhere(web, tmp_path, caplog):
    web.files["/a.png"] = picture(1)
    host = web.address.removeprefix("http://")
    names = ["a", "b", "hang_up"]
    rows = [(f"http://someone:apassword@{host}/{name}.png?signature=asignature", "a") for name in names]
    with caplog.at_level(logging.DEBUG):
        found = localise(entry(tmp_path, rows), tmp_path)
    folder = found.dataset.folder
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    said = f"{caplog.text} {found.unused} {[str(path) for path in folder.rglob('*')]} {written!r}"
    assert len(found.unused) == 2
    assert not [secret for secret in ("apassword", "asignature") if secret in said]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"caf\xe9", "is not UTF-8 text"),
        (b"url,caption\n", "holds no rows"),
        (b"", "has no column 'url'; it has: "),
        (b"link,caption\na,b\n", "has no column 'url'; it has: link, caption\n    -> set csv_url_column"),
        (b"url,text\na,b\n", "has no column 'caption'; it has: url, text\n    -> set csv_caption_column"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, reason):
    settings = entry(tmp_path, [])
    settings.csv_file.unlink()
    if content is not None:
        settings.csv_file.write_bytes(content)
    (problem,) = source_problems([settings], tmp_path, "file.json")
    assert reason in str(problem)
    assert str(problem).startswith("file.json, data set 'set': csv_file: ")
    with pytest.raises(ConfigError):
        localise(settings, tmp_path)


def test_different_pictures_do_not_share_a_folder(tmp_path):
    first = entry(tmp_path, [("a.png", "a")], csv_cache_dir=tmp_path / "shared")
    again = first.model_copy(update={"id": "again"})
    other = first.model_copy(update={"id": "other", "csv_url_column": "caption"})
    assert source_problems([first, again], tmp_path) == []
    (problem,) = source_problems([first, again, other], tmp_path)
    assert str(problem) == (
        f"data set file: other: {tmp_path / 'shared'} already holds the pictures of 'set', which come from elsewhere\n"
        "    -> give each entry a folder of its own"
    )
