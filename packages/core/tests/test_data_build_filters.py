"""How many of a folder's pictures the filters keep, and what they say about the others."""

import pytest
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data.build import build_plan
from tuner.data.images import load_pixels
from tuner.data.index import FileIndex

SIZES = [(40, 100), (50, 100), (64, 64), (64, 63), (128, 128), (150, 100), (201, 100)]


@pytest.fixture
def plan_for(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for width, height in SIZES:
        Image.new("RGB", (width, height)).save(folder / f"{width}x{height}.png")
    index = FileIndex(tmp_path / "cache")

    def plan(**settings):
        dataset = DatasetConfig(**{"id": "set", "instance_data_dir": folder, "resolution": 64, **settings})
        return build_plan(
            [dataset], batch_size=1, accumulation=1, alignment=8, aspect_rounding=2, keep_small_buckets=True, seed=1,
            index=index,
        )  # fmt: skip

    yield plan
    index.close()


def kept(plan):
    return sorted(sample.path.stem for bucket in plan.buckets for sample in bucket.samples)


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({}, set()),
        ({"minimum_image_size": 0}, set()),
        ({"minimum_image_size": 64}, {"40x100", "64x63"}),  # 4000 and 4032 pixels; 64 x 64 are 4096
        ({"minimum_image_size": 71}, {"40x100", "50x100", "64x63", "64x64"}),  # 5041 pixels
        ({"minimum_image_size": 64, "crop": True}, {"40x100", "50x100", "64x63"}),  # and both sides >= 64
        ({"minimum_image_size": 64, "crop": True, "crop_aspect": "preserve"}, {"40x100", "64x63"}),
        ({"minimum_image_size": 64, "resolution_type": "pixel"}, {"40x100", "50x100", "64x63"}),
        ({"minimum_image_size": 101, "resolution_type": "pixel"}, {f"{w}x{h}" for w, h in SIZES} - {"128x128"}),
        # 0.00390625 megapixels are 64^2 pixels
        ({"minimum_image_size": 0.00390625, "resolution_type": "area", "resolution": 0.01}, {"40x100", "64x63"}),
        ({"minimum_aspect_ratio": 0.5}, {"40x100"}),
        ({"minimum_aspect_ratio": 1}, {"40x100", "50x100"}),
        ({"maximum_aspect_ratio": 1}, {"64x63", "150x100", "201x100"}),
        ({"minimum_aspect_ratio": 0.5, "maximum_aspect_ratio": 2}, {"40x100", "201x100"}),
    ],
)
def test_what_filters_keep(plan_for, settings, left_out):
    plan = plan_for(**settings)
    assert kept(plan) == sorted({f"{width}x{height}" for width, height in SIZES} - left_out)
    assert {item.key.removeprefix("set/").removesuffix(".png") for item in plan.unused} == left_out
    assert all(item.asked for item in plan.unused)
    assert (plan.totals[0].found, plan.totals[0].used) == (7, 7 - len(left_out))


def test_aspects_out_of_bounds_are_told_with_their_remedy(plan_for):
    plan = plan_for(minimum_aspect_ratio=0.5, maximum_aspect_ratio=2)
    assert [(item.key, item.reason, item.remedy) for item in plan.unused] == [
        (
            "set/201x100.png",
            "has an aspect ratio (width / height) above maximum_aspect_ratio 2",
            "raise maximum_aspect_ratio, or cut such pictures to a narrower shape",
        ),
        (
            "set/40x100.png",
            "has an aspect ratio (width / height) below minimum_aspect_ratio 0.5",
            "lower minimum_aspect_ratio, or cut such pictures to a wider shape",
        ),
    ]


def test_small_pictures_that_stay_are_enlarged(plan_for):
    plan = plan_for(resolution=256, minimum_image_size=0)
    samples = {sample.path.stem: sample for bucket in plan.buckets for sample in bucket.samples}
    assert samples["64x64"].geometry.resize == (256, 256)
    assert load_pixels(samples["64x64"].path, samples["64x64"].geometry).shape == (3, 256, 256)


@pytest.mark.parametrize(
    ("decimals", "labels"),
    [
        # 40x104, 48x88, 64x64, 80x56 and 88x48; 64x63 belongs to the squares
        (1, {0.4: 1, 0.5: 1, 1.0: 3, 1.4: 1, 1.8: 1}),
        (2, {0.38: 1, 0.55: 1, 1.0: 3, 1.43: 1, 1.83: 1}),
    ],
)
def test_buckets_are_labelled_with_rounded_aspects(plan_for, tmp_path, decimals, labels):
    dataset = DatasetConfig(id="set", instance_data_dir=tmp_path / "pictures", resolution=64)
    with_index = FileIndex(tmp_path / "other")
    plan = build_plan(
        [dataset], batch_size=1, accumulation=1, alignment=8, aspect_rounding=decimals, keep_small_buckets=True,
        seed=1, index=with_index,
    )  # fmt: skip
    with_index.close()
    assert {bucket.aspect: len(bucket.samples) for bucket in plan.buckets} == labels
