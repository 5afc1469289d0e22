"""Captions from file names, text files, the entry itself, and tables."""

import json
import logging

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tuner.config.datasets import DatasetConfig
from tuner.data.captions import MissingCaption, open_captions
from tuner.errors import DatasetError


def dataset(folder, **settings):
    return DatasetConfig(id="set", instance_data_dir=folder, **settings)


def caption(dataset, relative, *others):
    """Return the captions of one picture."""
    return open_captions(dataset, [relative, *others])(relative, str(dataset.folder / relative))


def table(folder, rows, name="captions.jsonl", **settings):
    """Write a table and return the entry of the data set that it belongs to."""
    folder.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
    else:
        (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return dataset(folder, caption_strategy="parquet", parquet={"path": name, **settings})


def test_the_file_name_is_the_caption(tmp_path):
    assert caption(dataset(tmp_path), "a/a_red_cat.v2_.png") == ("a red cat.v2",)


def test_a_file_name_of_underscores_is_no_caption(tmp_path):
    with pytest.raises(MissingCaption, match="holds no caption"):
        caption(dataset(tmp_path), "__.png")


def test_the_lines_of_a_text_file_are_alternatives(tmp_path):
    (tmp_path / "a.b.txt").write_bytes("\ufeff a cat \r\n\r\n  \nune chatte à côté\n".encode())
    settings = dataset(tmp_path, caption_strategy="textfile")
    assert caption(settings, "a.b.png") == ("a cat", "une chatte à côté")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "has no .txt file"), (b"", "is empty"), (b" \n\n", "is empty"), (b"caf\xe9", "is not UTF-8")],
)
def test_text_files_without_a_caption(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(MissingCaption, match=reason) as caught:
        caption(dataset(tmp_path, caption_strategy="textfile"), "a.png")
    assert caught.value.remedy


@pytest.mark.parametrize(("prompt", "captions"), [("a cat", ("a cat",)), (["a cat", "a dog"], ("a cat", "a dog"))])
def test_instance_prompts(tmp_path, prompt, captions):
    settings = dataset(tmp_path, caption_strategy="instanceprompt", instance_prompt=prompt)
    assert caption(settings, "a.png") == captions


def test_an_instance_prompt_before_every_caption(tmp_path):
    (tmp_path / "a.txt").write_text("red\nblue")
    settings = {"caption_strategy": "textfile", "instance_prompt": ["one", "two"], "prepend_instance_prompt": True}
    assert caption(dataset(tmp_path, **settings), "a.png") == ("one red", "one blue", "two red", "two blue")


def test_an_instance_prompt_instead_of_every_caption_needs_no_other(tmp_path):
    settings = {"caption_strategy": "textfile", "instance_prompt": ["one", "two"], "only_instance_prompt": True}
    assert caption(dataset(tmp_path, **settings), "a.png") == ("one", "two")


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.parquet"])
@pytest.mark.parametrize(
    ("with_suffix", "rows", "expected"),
    [
        (True, [("a/b.png", "path"), ("b.png", "name")], "path"),
        (True, [("b.png", "name"), ("a/b.png", "path")], "path"),
        (True, [("b.png", "name")], "name"),
        (True, [("./a/b.png", "dotted")], "dotted"),
        (True, [("a\\b.png", "backslash")], "backslash"),
        (False, [("a/b", "path"), ("b", "name")], "path"),
        (False, [("b", "name")], "name"),
    ],
)
def test_rows_name_pictures_by_path_or_name(tmp_path, name, with_suffix, rows, expected):
    rows = [{"filename": file, "caption": text} for file, text in rows]
    settings = table(tmp_path / "set", rows, name, identifier_includes_extension=with_suffix)
    assert caption(settings, "a/b.png") == (expected,)


def test_numbers_may_name_pictures(tmp_path):
    settings = table(tmp_path / "set", [{"filename": 123, "caption": "a cat"}], "captions.parquet")
    assert caption(settings, "123.png") == ("a cat",)


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.parquet"])
def test_a_cell_may_hold_several_captions(tmp_path, name):
    settings = table(tmp_path / "set", [{"filename": "a", "caption": ["one ", "", "two"]}], name)
    assert caption(settings, "a.png") == ("one", "two")


def test_a_cell_may_be_an_array(tmp_path):
    column = pyarrow.array([np.array(["one", "two"]), np.array([], dtype=str)])
    content = pyarrow.table({"filename": ["a", "b"], "caption": column})
    pyarrow.parquet.write_table(content, tmp_path / "captions.parquet")
    settings = dataset(tmp_path, caption_strategy="parquet", parquet={"path": "captions.parquet"})
    assert caption(settings, "a.png") == ("one", "two")
    with pytest.raises(MissingCaption, match=r"its caption in captions\.parquet is empty"):
        caption(settings, "b.png")


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.parquet"])
@pytest.mark.parametrize("empty", [None, "", "  ", []])
def test_another_column_stands_in_for_an_empty_cell(tmp_path, name, empty):
    rows = [{"filename": "a", "caption": empty, "short": "cat"}]
    assert caption(table(tmp_path / "set", rows, name, fallback_caption_column="short"), "a.png") == ("cat",)
    with pytest.raises(MissingCaption, match="is empty"):
        caption(table(tmp_path / "set", rows, name), "a.png")


def test_columns_have_the_names_that_the_entry_gives(tmp_path):
    rows = [{"caption": "no", "id": "a", "text.en": "yes"}]
    for name in ("captions.jsonl", "captions.parquet"):
        settings = table(tmp_path / "set", rows, name, filename_column="id", caption_column="text.en")
        assert caption(settings, "a.png") == ("yes",)


def test_the_first_of_several_rows_counts_and_that_is_said_once(tmp_path, caplog):
    rows = [{"filename": name, "caption": f"{name} {number}"} for number in range(3) for name in ("a", "b", "unknown")]
    settings = table(tmp_path / "set", rows)
    with caplog.at_level(logging.WARNING):
        assert caption(settings, "a.png", "b.png") == ("a 0",)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'set' / 'captions.jsonl'}: 4 rows name a picture that an earlier row has named, which counts"
    ]


def test_a_picture_without_a_row(tmp_path):
    with pytest.raises(MissingCaption, match=r"^has no row in captions\.jsonl$") as caught:
        caption(table(tmp_path / "set", [{"filename": "a", "caption": "a cat"}]), "b.png", "a.png")
    assert caught.value.remedy == "add a row for it, or remove the picture"


@pytest.mark.parametrize(("name", "with_suffix", "needed"), [("a.png", False, "true"), ("a", True, "false")])
def test_names_with_and_without_suffix_are_told_apart(tmp_path, name, with_suffix, needed):
    rows = [{"filename": name, "caption": "a cat"}]
    settings = table(tmp_path / "set", rows, identifier_includes_extension=with_suffix)
    with pytest.raises(MissingCaption, match="has no row") as caught:
        caption(settings, "a.png")
    assert caught.value.remedy == (
        f"set identifier_includes_extension to {needed}: the table's names are such as {name!r}"
    )


def test_a_table_is_looked_for_as_it_stands_and_then_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = table(tmp_path / "set", [{"filename": "a", "caption": "in the folder"}])
    assert caption(settings, "a.png") == ("in the folder",)
    (tmp_path / "captions.jsonl").write_text('{"filename": "a", "caption": "as it stands"}')
    assert caption(settings, "a.png") == ("as it stands",)


def test_a_missing_table_names_the_places(tmp_path):
    settings = dataset(tmp_path, caption_strategy="parquet", parquet={"path": "t.parquet"})
    with pytest.raises(DatasetError) as caught:
        open_captions(settings, [])
    assert str(caught.value) == (
        f"data set 'set': parquet: there is no file t.parquet nor {tmp_path / 't.parquet'}\n    -> correct its path"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"filename": "a", "caption": "x"}\n[1]\n', r"JSON Lines: line 2 is no object"),
        (b'{"filename": "a", "caption": "x"}\n\n{"filename"\n', r"JSON Lines: line 3: "),
        (b"caf\xe9", "JSON Lines: it is not UTF-8 text"),
        (b'{"file": "a", "caption": "x"}\n', "has no column 'filename'; it has: file, caption"),
        (b"", "has no column 'filename', 'caption'; it has: none"),
        (b"PAR1 and no more", "cannot be read|is damaged"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, content, reason):
    (tmp_path / "t.parquet").write_bytes(content)
    settings = dataset(tmp_path, caption_strategy="parquet", parquet={"path": "t.parquet"})
    with pytest.raises(DatasetError, match=reason) as caught:
        open_captions(settings, [])
    assert str(tmp_path / "t.parquet") in str(caught.value)
    assert "\n    -> " in str(caught.value)


def test_a_parquet_table_without_a_column(tmp_path):
    settings = table(tmp_path / "set", [{"filename": "a", "text": "x"}], "captions.parquet")
    with pytest.raises(DatasetError, match="has no column 'caption'; it has: filename, text"):
        open_captions(settings, [])


def test_of_a_large_table_only_rows_of_the_data_set_are_kept(tmp_path):
    rows = [{"filename": f"{number:06d}", "caption": f"caption {number}"} for number in range(20_000)]
    settings = table(tmp_path / "set", rows, "captions.parquet")
    captions = open_captions(settings, ["000007.png", "019999.jpg"])
    assert captions("019999.jpg", tmp_path) == ("caption 19999",)
    assert captions("000007.png", tmp_path) == ("caption 7",)
    with pytest.raises(MissingCaption):
        captions("000008.png", tmp_path)
