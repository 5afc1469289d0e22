"""Data sets in the form of the hub's, read from local folders that the tests write."""

import io
import json

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from pydantic import ValidationError

from tuner.config.datasets import DatasetConfig
from tuner.data.captions import MissingCaption, open_captions
from tuner.data.scan import list_images
from tuner.data.sources.localise import localise
from tuner.errors import DatasetError


def picture(seed=0, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write(folder, rows, image="image", split="train"):
    """Write rows, with pictures as bytes in column `image`, as the hub's data sets are stored."""
    folder.mkdir(exist_ok=True)
    rows = [{**row, image: row[image] and {"bytes": row[image], "path": None}} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


def entry(folder, **settings):
    values = {"id": "set", "type": "huggingface", "dataset_name": str(folder), "caption_strategy": "huggingface"}
    return DatasetConfig.model_validate(values | settings)


def captions(dataset):
    """Relative path -> captions of the pictures in the folder."""
    names = [item.relative for item in list_images(dataset.folder).images]
    of = open_captions(dataset, names)
    return {name: of(name, dataset.folder / name) for name in names}


def test_pictures_keep_their_bytes_and_are_named_by_row(tmp_path):
    pictures = [picture(1, "JPEG"), picture(2), picture(3, "WEBP")]
    write(tmp_path / "data", [{"image": data, "caption": f"number {row}"} for row, data in enumerate(pictures)])
    reports = []
    found = localise(entry(tmp_path / "data"), tmp_path, progress=lambda *counts: reports.append(counts))
    folder = tmp_path / "sources" / "set"
    assert (found.dataset.folder, found.unused) == (folder, ())
    names = ["000000000.jpg", "000000001.png", "000000002.webp"]
    assert [(folder / name).read_bytes() for name in names] == pictures
    assert captions(found.dataset) == {name: (f"number {row}",) for row, name in enumerate(names)}
    assert reports == [(3, 3)]


def test_nothing_is_written_twice_and_what_is_gone_is_removed(tmp_path):
    write(tmp_path / "data", [{"image": picture(row), "caption": str(row)} for row in range(100)])
    folder = localise(entry(tmp_path / "data"), tmp_path).dataset.folder
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    (folder / "000000007.png").unlink()
    (folder / "mine.png").write_bytes(picture(7))
    reports = []
    localise(entry(tmp_path / "data"), tmp_path, progress=lambda *counts: reports.append(counts))
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("0*.png")}
    assert reports == [(1, 1)]
    assert [name for name in before if before[name] != after[name]] == ["000000007.png"]
    write(tmp_path / "data", [{"image": picture(row + 50), "caption": f"new {row}"} for row in range(2)])
    found = localise(entry(tmp_path / "data"), tmp_path)
    (folder / "mine.png").unlink()
    assert captions(found.dataset) == {"000000000.png": ("new 0",), "000000001.png": ("new 1",)}
    assert (folder / "000000001.png").read_bytes() == picture(51)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"caption_column": "text"}, ("a text",)),
        ({"caption_column": ["text", "several"]}, ("a text", "one", "two")),
        ({"caption_column": "several"}, ("one", "two")),
        ({"caption_column": "nested.en.long"}, ("deep",)),
        ({"caption_column": "dotted.name"}, ("dotted",)),
        ({"caption_column": "items.text"}, ("first", "second")),
        ({"caption_column": "empty", "fallback_caption_column": "text"}, ("a text",)),
        ({"caption_column": "text", "fallback_caption_column": "several"}, ("a text",)),
        ({"caption_column": "nested.fr", "fallback_caption_column": "nested.en.long"}, ("deep",)),
        ({"huggingface": {"caption_column": "text"}, "caption_column": "several"}, ("a text",)),
        ({"huggingface": {"caption_column": "empty", "fallback_caption_column": "text"}}, ("a text",)),
        ({"caption_column": "text", "instance_prompt": "sks", "prepend_instance_prompt": True}, ("sks a text",)),
        ({"caption_strategy": "instanceprompt", "instance_prompt": "sks"}, ("sks",)),
    ],
)
def test_captions(tmp_path, settings, expected):
    row = {
        "image": picture(1),
        "text": " a text ",
        "several": ["one", "", "two"],
        "nested": {"en": {"long": "deep"}, "fr": ""},
        "dotted.name": "dotted",
        "items": [{"text": "first"}, {"text": "second"}],
        "empty": "",
    }
    write(tmp_path / "data", [row])
    assert captions(localise(entry(tmp_path / "data", **settings), tmp_path).dataset) == {"000000000.png": expected}


def test_other_columns_and_splits(tmp_path):
    write(tmp_path / "data", [{"photo": picture(1), "caption": "train"}], "photo")
    write(tmp_path / "data", [{"photo": picture(2), "caption": "test"}], "photo", "test")
    for block in ({"image_column": "photo"}, {"huggingface": {"image_column": "photo"}}):
        found = localise(entry(tmp_path / "data", split="test", **block), tmp_path)
        assert captions(found.dataset) == {"000000000.png": ("test",)}
        assert (found.dataset.folder / "000000000.png").read_bytes() == picture(2)


def test_rows_without_a_picture_are_listed(tmp_path):
    rows = [picture(1), None, b"no picture", picture(2)[:20], picture(3)]
    write(tmp_path / "data", [{"image": data, "caption": "x"} for data in rows])
    found = localise(entry(tmp_path / "data"), tmp_path)
    assert list(captions(found.dataset)) == ["000000000.png", "000000004.png"]
    assert [item.key for item in found.unused] == ["set/row 1", "set/row 2", "set/row 3"]
    assert found.unused[0].reason == "its row has no picture"
    assert found.unused[1].reason.startswith("is no picture in a format that is read")
    assert all(item.remedy for item in found.unused)


def test_an_empty_caption_is_a_missing_one(tmp_path):
    write(tmp_path / "data", [{"image": picture(1), "caption": None}, {"image": picture(2), "caption": "b"}])
    found = localise(entry(tmp_path / "data"), tmp_path)
    of = open_captions(found.dataset, ["000000000.png", "000000001.png"])
    assert of("000000001.png", tmp_path) == ("b",)
    with pytest.raises(MissingCaption, match="its caption in the huggingface data set is empty"):
        of("000000000.png", tmp_path)


def test_pictures_without_bytes_are_written_without_loss(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Array3D((4, 5, 3), "uint8"), "caption": datasets.Value("string")})
    content = {"image": list(pixels), "caption": ["a", "b"]}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(content, features).to_parquet(tmp_path / "data" / "train.parquet")
    found = localise(entry(tmp_path / "data"), tmp_path)
    assert captions(found.dataset) == {"000000000.png": ("a",), "000000001.png": ("b",)}
    with Image.open(found.dataset.folder / "000000001.png") as image:
        assert np.array_equal(np.asarray(image), pixels[1])


def test_numbers_that_are_no_picture(tmp_path):
    fine, cut = [[0, 255], [1, 2]], [[0, 255], [1]]
    for name, rows in (("whole", [fine, cut, [[0, 256], [1, 2]], [[-1, 2], [1, 2]], None]), ("parts", [[[0.5, 1.0]]])):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"image": row, "caption": "x"}) for row in rows]
        (tmp_path / name / "train.jsonl").write_text("\n".join(lines))
    found = localise(entry(tmp_path / "whole"), tmp_path)
    assert [(item.key, item.reason) for item in found.unused] == [
        ("set/row 1", "has pixels that form no picture"),
        ("set/row 2", "has pixels that are no whole numbers from 0 to 255"),
        ("set/row 3", "has pixels that are no whole numbers from 0 to 255"),
        ("set/row 4", "its row has no picture"),
    ]
    with Image.open(found.dataset.folder / "000000000.png") as image:
        assert np.asarray(image).tolist() == fine
    with pytest.raises(DatasetError, match="has pixels that are no whole numbers from 0 to 255"):
        localise(entry(tmp_path / "parts", id="parts"), tmp_path)


def test_a_folder_of_pictures_with_metadata(tmp_path):
    (tmp_path / "data" / "train").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "data" / "train" / f"{name}.jpg").write_bytes(picture(ord(name), "JPEG"))
    rows = [json.dumps({"file_name": f"{name}.jpg", "text": f"caption {name}"}) for name in "ab"]
    (tmp_path / "data" / "train" / "metadata.jsonl").write_text("\n".join(rows))
    found = localise(entry(tmp_path / "data", caption_column="text"), tmp_path)
    assert captions(found.dataset) == {"000000000.jpg": ("caption a",), "000000001.jpg": ("caption b",)}
    assert (found.dataset.folder / "000000001.jpg").read_bytes() == picture(ord("b"), "JPEG")


def test_pictures_may_be_marked_as_such(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    content = {"image": [{"bytes": picture(1, "JPEG"), "path": "x.jpg"}], "caption": ["a"]}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(content, features).to_parquet(tmp_path / "data" / "train.parquet")
    found = localise(entry(tmp_path / "data"), tmp_path)
    assert captions(found.dataset) == {"000000000.jpg": ("a",)}
    assert (found.dataset.folder / "000000000.jpg").read_bytes() == picture(1, "JPEG")


def test_pictures_may_be_given_by_their_paths(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "data").mkdir()
    rows = [{"image": str(tmp_path / name), "caption": name} for name in ("a.png", "gone.png")]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = localise(entry(tmp_path / "data"), tmp_path)
    assert captions(found.dataset) == {"000000000.png": ("a.png",)}
    assert (found.dataset.folder / "000000000.png").read_bytes() == picture(1)
    assert [(item.key, item.reason) for item in found.unused] == [
        ("set/row 1", "its row names a file that cannot be read")
    ]


def test_code_of_a_data_set_is_not_run(tmp_path):
    write(tmp_path / "data", [{"image": picture(1), "caption": "a"}])
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DatasetError, match="scripts are no longer supported"):
        localise(entry(tmp_path / "data"), tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "reason", "remedy"),
    [
        ({"image_column": "photo"}, "has no column 'photo'; it has: image, caption, number", "set image_column"),
        ({"caption_column": ["caption", "text"]}, "has no column 'text'; it has: ", "set caption_column"),
        ({"fallback_caption_column": "text"}, "has no column 'text'; it has: ", "set fallback_caption_column"),
        ({"image_column": "caption"}, "gives no picture that can be read: ", "check image_column and split"),
        ({"image_column": "number"}, "holds no pictures in 'number' but Value('int64')", "set image_column"),
        ({"split": "validation"}, "cannot be loaded: ", "check dataset_name"),
        ({"dataset_name": "nobody/nothing"}, "cannot be loaded: ", "check dataset_name"),
    ],
)
def test_what_cannot_be_followed(tmp_path, settings, reason, remedy):
    write(tmp_path / "data", [{"image": picture(1), "caption": "a", "number": 1}])
    with pytest.raises(DatasetError) as caught:
        localise(entry(tmp_path / "data", **settings), tmp_path)
    text, _, cure = str(caught.value).partition("\n    -> ")
    assert text.startswith("data set 'set': dataset_name: ")
    assert reason in text
    assert cure.startswith(remedy)


def test_other_keys_of_the_block_are_refused_by_name(tmp_path):
    with pytest.raises(ValidationError, match="composite_image_config"):
        entry(tmp_path, huggingface={"composite_image_config": {}})


@pytest.mark.parametrize("strategy", ["filename", "textfile"])
def test_rows_have_no_files_to_take_captions_from(tmp_path, strategy):
    with pytest.raises(ValidationError, match="cannot serve type huggingface"):
        entry(tmp_path, caption_strategy=strategy)
