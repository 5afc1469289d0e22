"""Finding pictures."""

import os
from pathlib import Path

import pytest

from tuner.data.scan import list_images


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(folder):
    return [found.relative for found in list_images(folder).images]


def test_pictures_are_listed_by_relative_path(tmp_path):
    write(tmp_path, "b.PNG", "a/z.jpg", "a/b/c.webp", "a.jpeg", "B.bmp")
    assert names(tmp_path) == ["B.bmp", "a.jpeg", "a/b/c.webp", "a/z.jpg", "b.PNG"]


def test_what_is_known_of_a_picture(tmp_path):
    write(tmp_path, "a/b.png")
    (found,) = list_images(tmp_path / "a" / "..").images
    status = (tmp_path / "a" / "b.png").stat()
    assert found == ("a/b.png", str(tmp_path / "a" / "b.png"), 1, status.st_mtime_ns)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    write(tmp_path, ".a.png", ".cache/b.png", "c.png", "._c.png")
    assert names(tmp_path) == ["c.png"]


def test_other_files_are_counted_by_suffix(tmp_path):
    write(tmp_path, "a.txt", "b.TXT", "c/d.json", "README", "e.png", "f.heic")
    assert list_images(tmp_path).other == {"": 1, ".heic": 1, ".json": 1, ".txt": 2}


def test_links_are_followed_and_each_folder_is_entered_once(tmp_path):
    write(tmp_path / "set", "a/b.png")
    write(tmp_path / "elsewhere", "c.png")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "linked_again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "picture.png").symlink_to(tmp_path / "elsewhere" / "c.png")
    assert names(tmp_path / "set") == ["a/b.png", "linked/c.png", "picture.png"]


def test_broken_links_and_undecodable_names_are_named(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    Path(os.fsdecode(b"%b/b\xff.png" % os.fsencode(tmp_path))).touch()
    listing = list_images(tmp_path)
    assert listing.images == ()
    assert listing.unreadable == {
        "a.png": "cannot be opened: No such file or directory",
        "b\\udcff.png": "has a name that is not valid UTF-8",
    }


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list_images(tmp_path / "missing")


def test_a_link_that_leads_in_a_circle_is_named(tmp_path):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "a.png").touch()
    listing = list_images(tmp_path)
    assert [item.relative for item in listing.images] == ["a.png"]
    assert dict(listing.unreadable) == dict.fromkeys(
        ["one", "two"], "cannot be opened: Too many levels of symbolic links"
    )
