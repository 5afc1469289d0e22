"""From folders to buckets."""

import os
import shutil

import pytest
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data import images
from tuner.data.build import build_plan
from tuner.data.index import FileIndex
from tuner.data.sample import Geometry
from tuner.errors import ConfigError, DatasetError


def picture(path, width=64, height=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        picture(tmp_path / "pictures" / f"square_{number}.png")
    for number in range(3):
        picture(tmp_path / "pictures" / "sub" / f"wide_{number}.png", 96, 64)
    return tmp_path / "pictures"


def dataset(folder, **settings):
    return DatasetConfig(**{"id": "set", "instance_data_dir": folder, "resolution": 64, **settings})


@pytest.fixture
def plan_for(tmp_path):
    index = FileIndex(tmp_path / "cache")

    def plan(*datasets, **settings):
        defaults = {
            "batch_size": 1,
            "accumulation": 1,
            "alignment": 8,
            "aspect_rounding": 2,
            "keep_small_buckets": False,
            "seed": 1,
            "index": index,
        }
        return build_plan(datasets, **(defaults | settings))

    yield plan
    index.close()


def shape(plan):
    return [(bucket.size, bucket.aspect, len(bucket.samples)) for bucket in plan.buckets]


def test_pictures_of_one_aspect_share_a_bucket(folder, plan_for):
    plan = plan_for(dataset(folder, repeats=2), batch_size=2)
    assert shape(plan) == [((64, 64), 1.0, 5), ((80, 56), 1.43, 3)]
    assert [bucket.id for bucket in plan.buckets] == ["set/64x64", "set/80x56"]
    assert [bucket.draws for bucket in plan.buckets] == [15, 9]
    assert [bucket.batches() for bucket in plan.buckets] == [8, 5]
    sample = plan.buckets[1].samples[0]
    assert (sample.key, sample.dataset, sample.path) == ("set/sub/wide_0.png", "set", folder / "sub" / "wide_0.png")
    assert (sample.captions, sample.geometry) == (("wide 0",), Geometry((84, 56), (2, 0, 82, 56)))
    assert plan.unused == ()


def test_sides_are_multiples_of_the_stride_too(folder, plan_for):
    assert shape(plan_for(dataset(folder, resolution=128), alignment=16)) == [
        ((128, 128), 1.0, 5),
        ((160, 112), 1.43, 3),
    ]
    plan = plan_for(dataset(folder, resolution=128), alignment=16, stride=32)
    assert shape(plan) == [((128, 128), 1.0, 5), ((160, 96), 1.67, 3)]


def test_a_folder_may_serve_several_data_sets(folder, plan_for):
    plan = plan_for(dataset(folder, id="a"), dataset(folder, id="b", resolution=128))
    assert [bucket.id for bucket in plan.buckets] == ["a/64x64", "a/80x56", "b/128x128", "b/160x104"]


def test_the_same_inputs_give_the_same_plan(folder, plan_for, tmp_path):
    settings = dataset(folder, crop=True, resolution=32)
    first, again = plan_for(settings), plan_for(settings, index=FileIndex(tmp_path / "new"))
    assert first == again
    assert first != plan_for(settings, seed=2)


def test_planning_again_opens_no_picture(folder, plan_for, monkeypatch):
    (folder / "broken.png").write_bytes(b"")
    opened = []
    read_size = images.read_size
    monkeypatch.setattr(images, "read_size", lambda path: (opened.append(path), read_size(path))[1])
    first = plan_for(dataset(folder))
    assert len(opened) == 9
    assert plan_for(dataset(folder)) == first
    assert len(opened) == 9
    changed = picture(folder / "square_3.png", 96, 64)
    os.utime(changed, ns=(1, 1))
    assert shape(plan_for(dataset(folder))) == [((64, 64), 1.0, 4), ((80, 56), 1.43, 4)]
    assert opened[9:] == [str(changed)]


def test_an_unreadable_picture_is_left_out_with_its_reason(folder, plan_for):
    (folder / "broken.png").write_bytes(b"")
    for _ in range(2):  # read from the file, then from the index
        (unused,) = plan_for(dataset(folder)).unused
        assert (unused.key, unused.reason) == ("set/broken.png", "is empty (0 bytes)")


def test_excluded_pictures_are_left_out(folder, plan_for):
    plan = plan_for(dataset(folder), excluded={"set/square_1.png": "is truncated", "other/x.png": "is damaged"})
    assert shape(plan)[0] == ((64, 64), 1.0, 4)
    assert [(item.key, item.reason) for item in plan.unused] == [("set/square_1.png", "is truncated")]


def test_small_pictures_are_left_out(folder, plan_for):
    plan = plan_for(dataset(folder, minimum_image_size=70))
    assert shape(plan) == [((80, 56), 1.43, 3)]
    assert {item.reason for item in plan.unused} == {"is smaller than minimum_image_size 70 (pixel_area)"}
    assert (plan.totals[0].found, plan.totals[0].used) == (8, 3)


def test_pictures_without_a_caption_are_left_out(folder, plan_for):
    (folder / "square_0.txt").write_text("a caption\nanother")
    plan = plan_for(dataset(folder, caption_strategy="textfile"))
    assert [sample.captions for sample in plan.buckets[0].samples] == [("a caption", "another")]
    assert len(plan.unused) == 7
    assert plan.totals[0].other_files == {".txt": 1}


def test_buckets_below_a_batch_are_pruned_and_told_how_to_keep_them(folder, plan_for):
    plan = plan_for(dataset(folder), batch_size=4)
    assert shape(plan) == [((64, 64), 1.0, 5)]
    assert [item.key for item in plan.unused] == [f"set/sub/wide_{n}.png" for n in range(3)]
    assert {item.reason for item in plan.unused} == {
        "its bucket 80x56 gives 3 samples per epoch, fewer than train_batch_size 4"
    }
    assert {item.remedy for item in plan.unused} == {
        "set repeats to 1 or more, train_batch_size to 3, or disable_bucket_pruning to true"
    }


@pytest.mark.parametrize("settings", [{"keep_small_buckets": True}, {"batch_size": 3}])
def test_ways_to_keep_a_small_bucket(folder, plan_for, settings):
    assert len(plan_for(dataset(folder), **({"batch_size": 4} | settings)).buckets) == 2


@pytest.mark.parametrize(("batch_size", "repeats"), [(4, 1), (6, 1), (7, 2), (9, 2), (10, 3)])
def test_the_repeats_named_are_the_fewest_that_cure(folder, plan_for, batch_size, repeats):
    (bucket,) = plan_for(dataset(folder / "sub", repeats=repeats), batch_size=batch_size).buckets
    assert len(bucket.samples) == 3
    with pytest.raises(DatasetError, match=f"set repeats to {repeats} or more"):
        plan_for(dataset(folder / "sub", repeats=repeats - 1), batch_size=batch_size)


def test_a_data_set_left_with_nothing_is_refused_with_counts_and_cures(folder, plan_for):
    (folder / "broken.png").write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        plan_for(dataset(folder), batch_size=6)
    text = str(caught.value)
    assert f"no images detected in data set 'set' ({folder}): none of its 9 can be trained on" in text
    assert "1 image: is empty (0 bytes) (set/broken.png)" in text
    assert "5 images: its bucket 64x64 gives 5 samples per epoch, fewer than train_batch_size 6" in text
    assert "set repeats to 1 or more, train_batch_size to 5" in text


def test_all_empty_data_sets_are_named_at_once(tmp_path, plan_for):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.heic").touch()
    with pytest.raises(DatasetError, match=r"(?s)data set 'a'.*data set 'b'.*other files: 1 \.heic"):
        plan_for(dataset(tmp_path / "a", id="a"), dataset(tmp_path / "b", id="b"))


def test_entries_that_cannot_be_followed_are_named_at_once(tmp_path, folder, plan_for):
    with pytest.raises(ConfigError) as caught:
        plan_for(
            dataset(tmp_path / "missing", id="a"),
            dataset(folder / "square_0.png", id="b"),
            dataset(folder, id="c", minimum_aspect_ratio=2, maximum_aspect_ratio=1),
            dataset(folder, id="d", resolution=100),
            dataset(folder, id="e", resolution_type="area", resolution=1),
            canvas_limit=64 * 64,
            source="sets.json",
        )
    problems = caught.value.problems
    assert [problem.file for problem in problems] == [f"sets.json, data set '{letter}'" for letter in "abcde"]
    keys = ["instance_data_dir", "instance_data_dir", "minimum_aspect_ratio", "resolution", "resolution"]
    assert [problem.key for problem in problems] == keys
    assert problems[0].message == f"{tmp_path / 'missing'} does not exist"
    assert problems[1].message == f"{folder / 'square_0.png'} is not a folder"
    assert problems[2].message == "2 is above maximum_aspect_ratio 1, so that no picture is left"
    assert problems[3].message == "100 (pixel_area) asks for 10000 pixels; the model takes at most 4096"
    assert problems[3].remedy == "set resolution to 64 or less"
    assert problems[4].remedy == "set resolution to 0.00390625 or less"


def test_face_style_without_crop_is_never_read(folder, plan_for):
    assert len(plan_for(dataset(folder, crop_style="face")).buckets) == 2


def test_buckets_respect_the_canvas(folder, plan_for):
    plan = plan_for(dataset(folder), canvas_limit=64 * 64)
    assert shape(plan) == [((64, 64), 1.0, 5), ((72, 56), 1.29, 3)]


def test_the_fingerprint_outlives_a_move_and_a_touch(folder, plan_for, tmp_path):
    before = plan_for(dataset(folder)).fingerprint()
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    os.utime(moved / "square_0.png", ns=(5, 5))
    assert plan_for(dataset(moved)).fingerprint() == before


def test_the_fingerprint_is_the_same_tomorrow(folder, plan_for):
    assert plan_for(dataset(folder, repeats=1), batch_size=2).fingerprint() == "0e83b63130852a8ca85f8eaf229cbd09"


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"repeats": 1}, {}),
        ({"resolution": 128}, {}),
        ({"id": "other"}, {}),
        ({"caption_strategy": "instanceprompt", "instance_prompt": "a cat"}, {}),
        ({"crop": True, "resolution": 32}, {}),
        ({}, {"batch_size": 2}),
        ({"train_batch_size": 2}, {}),
        ({}, {"alignment": 16}),
        ({}, {"excluded": {"set/square_0.png": "is damaged"}}),
    ],
)
def test_the_fingerprint_changes_with_what_is_trained_on(folder, plan_for, settings, arguments):
    before = plan_for(dataset(folder)).fingerprint()
    assert plan_for(dataset(folder, **settings), **arguments).fingerprint() != before
