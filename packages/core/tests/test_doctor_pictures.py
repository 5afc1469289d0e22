"""Findings about pictures and masks of small real folders."""

import shutil
from contextlib import nullcontext

import pytest
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data.build import build_plan
from tuner.data.doctor.evaluation import trained_on
from tuner.data.doctor.finding import Finding, no_bar
from tuner.data.doctor.masks import black_masks, spare_masks
from tuner.data.doctor.pictures import duplicates, enlarged, known_files, left_out
from tuner.data.doctor.sizes import describe_length, large_encoder_batches, length_as_json, small_buckets


def picture(path, width=64, height=64, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (colour, 0, 0)).save(path)
    return path


@pytest.fixture
def plan_for(index):
    def plan(*datasets, **settings):
        defaults = {
            "batch_size": 1, "accumulation": 1, "alignment": 8, "aspect_rounding": 2, "keep_small_buckets": True,
            "seed": 1, "index": index,
        }  # fmt: skip
        return build_plan(datasets, **(defaults | settings))

    return plan


def dataset(folder, **settings):
    return DatasetConfig(**{"id": folder.name, "instance_data_dir": folder, "resolution": 64, **settings})


def copies(plan, index):
    return list(duplicates(plan, known_files(plan, index), index))


def test_copies_within_a_data_set(tmp_path, plan_for, index):
    for number in range(4):
        picture(tmp_path / "a" / f"{number}.png", colour=number)
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "one more.png")
    (tmp_path / "a" / "sub").mkdir()
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "sub" / "x.png")
    shutil.copy(tmp_path / "a" / "3.png", tmp_path / "a" / "4.png")
    assert copies(plan_for(dataset(tmp_path / "a")), index) == [
        Finding(
            "warning",
            "duplicates",
            "a",
            "3 images repeat others byte for byte",
            "remove the copies; repeats is the way to show pictures more often",
            ("a/0.png = a/one more.png = a/sub/x.png", "a/3.png = a/4.png"),
        )
    ]


def test_copies_in_two_data_sets(tmp_path, plan_for, index):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png", colour=number)
        picture(tmp_path / "b" / f"{number}.png", colour=number + 10)
    shutil.copy(tmp_path / "a" / "2.png", tmp_path / "b" / "copy.png")
    plan = plan_for(dataset(tmp_path / "a"), dataset(tmp_path / "b"))
    assert copies(plan, index) == [
        Finding(
            "warning",
            "duplicates",
            "a, b",
            "1 image is in both, byte for byte, as copies",
            "keep each picture in one data set; to train at several sizes, name one folder in several entries",
            ("a/2.png = b/copy.png",),
        )
    ]


def test_one_folder_in_two_data_sets_is_no_copy(tmp_path, plan_for, index):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png", colour=number)
    entries = dataset(tmp_path / "a"), dataset(tmp_path / "a", id="large", resolution=128)
    assert copies(plan_for(*entries), index) == []
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "copy.png")
    assert [found.where for found in copies(plan_for(*entries), index)] == ["a", "large"]


def test_equal_sizes_are_no_copies_and_are_read_once(tmp_path, plan_for, index):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.bmp", colour=number)
    picture(tmp_path / "a" / "other.bmp", width=72)
    plan = plan_for(dataset(tmp_path / "a"))
    reports = []
    files = known_files(plan, index)

    def bar(description, unit):
        return nullcontext(lambda *report: reports.append(report))

    assert list(duplicates(plan, files, index, bar)) == []
    assert reports == [(1, 3), (2, 3), (3, 3)]
    assert list(duplicates(plan, known_files(plan, index), index, bar)) == []
    assert len(reports) == 3


def test_a_file_that_vanished_spoils_nothing(tmp_path, plan_for, index):
    first, second = (picture(tmp_path / "a" / f"{number}.png") for number in range(2))
    plan = plan_for(dataset(tmp_path / "a"))
    second.unlink()
    assert copies(plan, index) == []
    assert first.is_file()


def test_pictures_to_evaluate_with(tmp_path, plan_for, index):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png", colour=number)
        picture(tmp_path / "held out" / f"{number}.png", colour=number + 10)
    plan = plan_for(dataset(tmp_path / "a"))
    folders = {"eval": tmp_path / "held out"}
    assert list(trained_on(plan, folders, known_files(plan, index), index)) == []
    shutil.copy(tmp_path / "a" / "1.png", tmp_path / "held out" / "copy.png")
    for _ in range(2):
        (found,) = trained_on(plan, folders, known_files(plan, index), index)
        assert (found.severity, found.where, found.examples) == ("warning", "eval", ("eval/copy.png",))
        assert found.reason == "1 of 4 images to evaluate with are trained on as well, byte for byte"
    (found,) = trained_on(plan, {"eval": tmp_path / "a"}, known_files(plan, index), index)
    assert found.examples == ("eval/0.png", "eval/1.png", "eval/2.png")


def test_enlarged_pictures(tmp_path, plan_for, index):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png", 64, 64)
    for number in range(2):
        picture(tmp_path / "a" / f"large_{number}.png", 256, 256)
    plan = plan_for(dataset(tmp_path / "a", resolution=128))
    assert list(enlarged(plan, known_files(plan, index))) == [
        Finding(
            "warning",
            "enlarged",
            "a",
            "3 of 5 images have fewer pixels than they are trained at",
            "lower resolution, use larger pictures, or leave small ones out with minimum_image_size",
            ("a/0.png: 64x64 to 128x128", "a/1.png: 64x64 to 128x128", "a/2.png: 64x64 to 128x128"),
        )
    ]
    picture(tmp_path / "a" / "large_2.png", 256, 256)
    plan = plan_for(dataset(tmp_path / "a", resolution=128))
    assert list(enlarged(plan, known_files(plan, index))) == []
    picture(tmp_path / "b" / "just so.png", 128, 128)
    plan = plan_for(dataset(tmp_path / "b", resolution=128))
    assert list(enlarged(plan, known_files(plan, index))) == []


def test_pictures_that_are_left_out(tmp_path, plan_for):
    picture(tmp_path / "a" / "good.png")
    (tmp_path / "a" / "empty.png").write_bytes(b"")
    (tmp_path / "a" / "also empty.png").write_bytes(b"")
    (found,) = left_out(plan_for(dataset(tmp_path / "a")))
    assert (found.severity, found.kind, found.where) == ("warning", "unused", "a")
    assert found.reason == "2 images not used: is empty (0 bytes)"
    assert found.examples == ("a/also empty.png", "a/empty.png")
    (tmp_path / "a" / "empty.png").unlink()
    (tmp_path / "a" / "also empty.png").unlink()
    assert list(left_out(plan_for(dataset(tmp_path / "a")))) == []


def test_pictures_that_a_setting_leaves_out(tmp_path, plan_for):
    picture(tmp_path / "a" / "good.png")
    picture(tmp_path / "a" / "small.png", 8, 8)
    (found,) = left_out(plan_for(dataset(tmp_path / "a", minimum_image_size=32)))
    assert (found.severity, found.examples) == ("note", ("a/small.png",))
    assert found.reason.startswith("1 image not used: is smaller than minimum_image_size 32")


def test_masks_of_no_picture(tmp_path, plan_for):
    masks = tmp_path / "masks"
    for name in ("0", "1", "sub/2"):
        picture(tmp_path / "a" / f"{name}.png")
        picture(masks / f"{name}.bmp")
    picture(tmp_path / "a" / "small.png", 8, 8)
    picture(masks / "small.png", 8, 8)
    settings = dataset(tmp_path / "a", conditioning_data="masks", minimum_image_size=32)
    folders = {"a": masks}
    plan = plan_for(settings, mask_folders=folders)
    assert list(spare_masks(plan, folders)) == []
    picture(masks / "2.png")
    assert list(spare_masks(plan, folders)) == [
        Finding(
            "warning",
            "spare masks",
            "a",
            f"1 mask in {masks} belongs to no picture",
            "give each mask the relative path of its picture, whatever its suffix, or remove it",
            ("2.png",),
        )
    ]


def test_masks_that_are_black_all_over(tmp_path, plan_for):
    masks = tmp_path / "masks"
    for name, colour in (("0", 0), ("1", 1), ("2", 0)):
        picture(tmp_path / "a" / f"{name}.png")
        picture(masks / f"{name}.png", colour=colour)
    plan = plan_for(dataset(tmp_path / "a", conditioning_data="masks"), mask_folders={"a": masks})
    (masks / "2.png").write_bytes(b"damaged since")
    (found,) = black_masks(plan, no_bar)
    assert (found.severity, found.where, found.examples) == ("warning", "a", ("a/0.png",))
    assert found.reason == "1 image has a mask that is black all over, so nothing is learnt"


@pytest.fixture
def five(tmp_path):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png")
    for number in range(2):
        picture(tmp_path / "a" / f"wide_{number}.png", 96, 64)
    return tmp_path / "a"


def test_buckets_smaller_than_a_batch(five, plan_for):
    assert list(small_buckets(plan_for(dataset(five), batch_size=2))) == []
    assert list(small_buckets(plan_for(dataset(five, repeats=1), batch_size=4))) == []
    assert list(small_buckets(plan_for(dataset(five), batch_size=3))) == [
        Finding(
            "warning",
            "short batches",
            "a",
            "1 bucket with fewer samples than a batch of 3",
            "raise repeats, lower train_batch_size, or set disable_bucket_pruning to false to leave them out",
            ("80x56: 2 samples",),
        )
    ]


def test_buckets_smaller_than_a_step(five, plan_for):
    assert list(small_buckets(plan_for(dataset(five, repeats=1), batch_size=2, accumulation=2))) == []
    assert list(small_buckets(plan_for(dataset(five), batch_size=1, accumulation=3))) == [
        Finding(
            "note",
            "short steps",
            "a",
            "1 bucket with fewer samples than an optimizer step of 3 (3 batches of 1): a step takes others beside them",
            "raise repeats or lower gradient_accumulation_steps where that matters",
            ("80x56: 2 samples",),
        )
    ]


def test_a_step_counts_the_batches_of_all_processes(five, plan_for):
    (found,) = small_buckets(plan_for(dataset(five), batch_size=1, processes=3))
    assert "an optimizer step of 3 (3 batches of 1)" in found.reason
    assert found.remedy == "raise repeats or lower num_processes where that matters"
    (found,) = small_buckets(plan_for(dataset(five), batch_size=1, accumulation=2, processes=2))
    assert "an optimizer step of 4 (4 batches of 1)" in found.reason
    assert found.remedy == "raise repeats or lower gradient_accumulation_steps or num_processes where that matters"


def test_encoder_batches_larger_than_a_bucket(five, plan_for):
    plan = plan_for(dataset(five, repeats=5))
    assert list(large_encoder_batches(plan, 2)) == []
    (found,) = large_encoder_batches(plan, 3)
    assert (found.severity, found.where, found.examples) == ("note", "a", ("80x56: 12 samples",))
    assert found.reason == "1 bucket with fewer images than vae_batch_size 3: they are encoded in smaller batches"


def test_the_length_of_a_run(five, plan_for):
    plan = plan_for(dataset(five), batch_size=2, accumulation=2)  # 2 + 1 batches: an epoch takes 2 steps of 2
    assert length_as_json(plan, 6, 0) == {"steps": 6, "epochs": 4.0, "steps_per_epoch": 2}
    assert length_as_json(plan, 0, 3) == {"steps": 6, "epochs": 3, "steps_per_epoch": 2}
    assert describe_length(plan, 6, 0) == "length: 6 steps, 4 epochs of 2 steps"
    assert describe_length(plan, 1, 0) == "length: 1 step, 0.667 epochs of 2 steps"
