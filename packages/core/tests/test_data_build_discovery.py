"""Where a data set's list of files comes from when its folder is not to be searched."""

import logging

import pytest
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data.build import build_plan
from tuner.data.images import UnreadableImage, load_pixels


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.png", "a.png", "sub/c.png", "sub.png", "sub-1.png"):
        save(folder / name)
    (folder / "broken.png").write_bytes(b"")
    return folder


def save(path):
    """Write a picture; files are the larger, the earlier their names are in the alphabet."""
    Image.new("RGB", (64, 64)).save(path, compress_level=0 if path.name < "b" else 9)


@pytest.fixture
def plan_for(index):
    def plan(folder, skip="", **settings):
        dataset = DatasetConfig(id="set", instance_data_dir=folder, resolution=64, skip_file_discovery=skip)
        return build_plan(
            [dataset], batch_size=1, accumulation=1, alignment=8, aspect_rounding=2, keep_small_buckets=True, seed=1,
            index=index, **settings,
        )  # fmt: skip

    return plan


def keys(plan):
    return [sample.key for bucket in plan.buckets for sample in bucket.samples]


@pytest.mark.parametrize("skip", ["aspect", "metadata", "vae,aspect", "metadata text"])
def test_a_new_file_is_found_only_without_the_skip(folder, plan_for, skip):
    before = plan_for(folder)
    save(folder / "new.png")
    assert plan_for(folder, skip) == before
    assert "set/new.png" in keys(plan_for(folder))
    assert "set/new.png" in keys(plan_for(folder, skip))  # it is known by now


@pytest.mark.parametrize("skip", ["", "vae", "text", "vae text"])
def test_the_other_stages_always_see_new_files(folder, plan_for, skip):
    plan_for(folder)
    save(folder / "new.png")
    assert "set/new.png" in keys(plan_for(folder, skip))


def test_skipping_looks_at_no_file(folder, plan_for, tmp_path):
    before = plan_for(folder)
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()  # empty: whatever comes now comes from memory
    again = plan_for(folder, "aspect")
    assert again == before
    assert keys(again) == ["set/a.png", "set/b.png", "set/sub-1.png", "set/sub.png", "set/sub/c.png"]
    assert [(item.key, item.reason) for item in again.unused] == [("set/broken.png", "is empty (0 bytes)")]


def test_an_unknown_folder_is_searched_once(folder, plan_for, caplog):
    with caplog.at_level(logging.INFO, logger="tuner.data.discovery"):
        first = plan_for(folder, "aspect")
        assert plan_for(folder, "aspect") == first
    assert len(keys(first)) == 5
    assert caplog.messages == [
        f"data set set: nothing is known of {folder} yet, so skip_file_discovery waits: it is searched this once"
    ]


def test_a_file_that_vanished_is_missed_by_whoever_needs_it(folder, plan_for):
    plan_for(folder)
    (folder / "a.png").unlink()
    plan = plan_for(folder, "aspect")
    sample = plan.buckets[0].samples[0]
    assert sample.key == "set/a.png"
    with pytest.raises(UnreadableImage, match="cannot be opened: No such file or directory") as caught:
        load_pixels(sample.path, sample.geometry)
    without = plan_for(folder, "aspect", excluded={sample.key: caught.value.reason})
    assert "set/a.png" not in keys(without)
    assert ("set/a.png", "cannot be opened: No such file or directory") in [
        (item.key, item.reason) for item in without.unused
    ]


def test_a_search_forgets_what_vanished(folder, plan_for):
    plan_for(folder)
    (folder / "a.png").unlink()
    searched = plan_for(folder)
    assert plan_for(folder, "aspect") == searched
    assert "set/a.png" not in keys(searched)


def test_what_other_data_sets_know_is_kept_apart(folder, plan_for):
    hidden, beside = folder / ".hidden", folder.parent / "pictures-2"
    for other in (hidden, beside):
        other.mkdir()
        save(other / "x.png")
    before = plan_for(folder)
    assert keys(plan_for(hidden)) == keys(plan_for(beside)) == ["set/x.png"]
    assert plan_for(folder, "aspect") == before
    assert keys(plan_for(folder / "sub", "aspect")) == ["set/c.png"]
