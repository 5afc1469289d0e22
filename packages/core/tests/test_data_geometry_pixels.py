"""Where a mark in a picture's file ends up in the pixels that are trained on."""

import pytest
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data.build import build_plan
from tuner.data.geometry import geometry_in
from tuner.data.images import load_pixels
from tuner.data.index import FileIndex
from tuner.randomness import generator

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
EVERY_EPOCH = {"vae_cache_clear_each_epoch": True}


@pytest.fixture
def planned(tmp_path):
    """Return (data set, sample) of a black picture with a white square of 4 x 4 pixels around `mark`."""
    index = FileIndex(tmp_path / "cache")

    def plan(size, mark, settings, **rules):
        folder = tmp_path / "pictures"
        folder.mkdir()
        picture = Image.new("RGB", size, BLACK)
        picture.paste(WHITE, (mark[0] - 2, mark[1] - 2, mark[0] + 2, mark[1] + 2))
        picture.save(folder / "a.png")
        dataset = DatasetConfig(**{"id": "set", "instance_data_dir": folder, "resolution": 64, **settings})
        made = build_plan(
            [dataset],
            **{
                "batch_size": 1, "accumulation": 1, "alignment": 8, "aspect_rounding": 2, "keep_small_buckets": True,
                "seed": 5, "index": index, **rules,
            },
        )  # fmt: skip
        return dataset, made.buckets[0].samples[0]

    yield plan
    index.close()


def mark_of(pixels):
    """Return the centre of what is white, (x, y) in pixels from the left and upper edge."""
    brightness_HW = (pixels[0].double() + 1) / 2
    height, width = brightness_HW.shape
    total = brightness_HW.sum()
    rows, columns = brightness_HW.sum(dim=1), brightness_HW.sum(dim=0)
    x = sum((n + 0.5) * float(value) for n, value in enumerate(columns)) / total
    y = sum((n + 0.5) * float(value) for n, value in enumerate(rows)) / total
    return (width, height), (float(x), float(y))


UNCUT = [
    # 101x67 -> 84x56, of which 2 columns fall on each side: (60 * 84 / 101 - 2, 30 * 56 / 67)
    pytest.param((101, 67), (60, 30), {}, {}, (80, 56), (47.90, 25.07), id="odd sides"),
    # 67x101 -> 53x80, since 0.66 is less than 1 / 1.51: of 5 columns 2 fall on the left, 3 on the right
    pytest.param((67, 101), (30, 60), {}, {}, (48, 80), (21.73, 47.52), id="odd sides upright"),
    # 101x67 -> 96x64: nothing falls
    pytest.param((101, 67), (60, 30), {"resolution_type": "pixel"}, {}, (96, 64), (57.03, 28.66), id="shorter edge"),
    pytest.param((101, 67), (60, 30), {"resolution_type": "pixel_edge"}, {}, (96, 64), (57.03, 28.66), id="its alias"),
    # 0.00390625 megapixels are 64^2 pixels
    pytest.param(
        (101, 67),
        (60, 30),
        {"resolution": 0.00390625, "resolution_type": "area"},
        {},
        (80, 56),
        (47.90, 25.07),
        id="area",
    ),
    # 20x20 is enlarged to 64x64
    pytest.param((20, 20), (15, 5), {}, {}, (64, 64), (48.0, 16.0), id="enlarged"),
    # a picture as large as its bucket is not touched
    pytest.param((64, 64), (40, 9), {}, {}, (64, 64), (40.0, 9.0), id="as it is"),
    # 88x48 has more than 4096 pixels, 80x48 has not: 200x100 -> 96x48, of which 8 columns fall on each side
    pytest.param((200, 100), (100, 50), {}, {"canvas_limit": 4096}, (80, 48), (40.0, 24.0), id="canvas"),
    # of 88x48 only 64x48 are allowed: 200x100 -> 96x48, of which 16 columns fall on each side
    pytest.param((200, 100), (100, 50), {}, {"side_limit": 64}, (64, 48), (32.0, 24.0), id="side limit"),
    # alignment and stride both count: multiples of lcm(24, 16) = 48
    pytest.param((90, 90), (30, 60), {}, {"alignment": 24, "stride": 16}, (48, 48), (16.0, 32.0), id="stride"),
]


@pytest.mark.parametrize(("size", "mark", "settings", "rules", "trained", "ends"), UNCUT)
def test_without_crop(planned, size, mark, settings, rules, trained, ends):
    _, sample = planned(size, mark, {"crop_style": "corner", **settings}, **rules)
    found = mark_of(load_pixels(sample.path, sample.geometry))
    assert found[0] == trained
    assert found[1] == pytest.approx(ends, abs=0.1)


CUT = [
    # 151x101 -> 96x64, crop of 64x64
    pytest.param((151, 101), (80, 40), {"crop_style": "center"}, (64, 64), (34.86, 25.35), id="centre"),
    pytest.param((151, 101), (80, 40), {"crop_style": "centre"}, (64, 64), (34.86, 25.35), id="centre in British"),
    pytest.param((151, 101), (80, 40), {"crop_style": "corner"}, (64, 64), (50.86, 25.35), id="corner"),
    # upright: 101x151 -> 64x96
    pytest.param((101, 151), (40, 80), {"crop_style": "center"}, (64, 64), (25.35, 34.86), id="upright"),
    pytest.param((101, 151), (40, 80), {"crop_style": "corner"}, (64, 64), (25.35, 50.86), id="upright corner"),
    # no face in it: the centre
    pytest.param((151, 101), (80, 40), {"crop_style": "face"}, (64, 64), (34.86, 25.35), id="face"),
    # preserve: 84x56 as without crop, but cut on the right only
    pytest.param(
        (101, 67), (60, 30), {"crop_aspect": "preserve", "crop_style": "corner"}, (80, 56), (49.90, 25.07), id="aspect"
    ),
    # 151x101 is 1.495; of 0.5 and 2.0 the latter is closest: 88x48 (from 90.5x45.25), covered by 88x59
    pytest.param(
        (151, 101), (80, 40), {"crop_aspect": "closest", "crop_aspect_buckets": [0.5, 2.0], "crop_style": "center"},
        (88, 48), (46.62, 18.37), id="closest",
    ),
    # above 160 pixels reduced to 128x128, of which the middle is cut; (100, 140) / 2 - 32
    pytest.param(
        (256, 256), (100, 140), {"crop_style": "center", "maximum_image_size": 160, "target_downsample_size": 128},
        (64, 64), (18.0, 38.0), id="reduced first",
    ),
    # not above it: the whole picture is in the crop
    pytest.param(
        (256, 256), (100, 140), {"crop_style": "center", "maximum_image_size": 256, "target_downsample_size": 128},
        (64, 64), (25.0, 35.0), id="not reduced",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("size", "mark", "settings", "trained", "ends"), CUT)
def test_with_crop(planned, size, mark, settings, trained, ends):
    _, sample = planned(size, mark, {"crop": True, **settings})
    found = mark_of(load_pixels(sample.path, sample.geometry))
    assert found[0] == trained
    assert found[1] == pytest.approx(ends, abs=0.1)


def drawn_offset(seed, epoch, key, surplus):
    random = generator(seed, "crop", epoch, key)
    return [int(random.integers(room + 1)) for room in surplus]


@pytest.mark.parametrize("epoch", [0, 1, 2, 30])
def test_a_random_crop_follows_its_draw_in_every_epoch(planned, epoch):
    reduced = {"maximum_image_size": 80, "target_downsample_size": 72}
    dataset, sample = planned((160, 160), (80, 80), {"crop": True, **EVERY_EPOCH, **reduced})
    assert (sample.geometry.resize, sample.geometry.downsample) == ((72, 72), (72, 72))
    geometry = geometry_in(sample, dataset, epoch, 5)
    left, top = drawn_offset(5, epoch, "set/a.png", (8, 8))
    found = mark_of(load_pixels(sample.path, geometry))
    assert found[0] == (64, 64)
    assert found[1] == pytest.approx((36 - left, 36 - top), abs=0.1)


def test_the_first_epoch_is_the_plans_own(planned):
    dataset, sample = planned((151, 101), (80, 40), {"crop": True, **EVERY_EPOCH})
    assert geometry_in(sample, dataset, 0, 5) == sample.geometry
    lefts = {geometry_in(sample, dataset, epoch, 5).crop[0] for epoch in range(400)}
    assert lefts == set(range(33))  # 96 - 64 = 32 columns to spare
    assert len({geometry_in(sample, dataset, 7, seed).crop for seed in range(20)}) > 10


@pytest.mark.parametrize(
    "settings",
    [
        {"crop": True},
        {"crop": True, "crop_style": "center", **EVERY_EPOCH},
        {"crop": False, **EVERY_EPOCH},
    ],
)
def test_other_crops_are_the_same_in_every_epoch(planned, settings):
    dataset, sample = planned((151, 101), (80, 40), settings)
    assert {geometry_in(sample, dataset, epoch, 5) for epoch in range(20)} == {sample.geometry}


def test_a_drawn_aspect_stays_for_the_run(planned):
    settings = {"crop": True, "crop_aspect": "random", "crop_aspect_buckets": [1.0, 2.0, 0.5], **EVERY_EPOCH}
    dataset, sample = planned((151, 101), (80, 40), settings)
    aspect = [1.0, 2.0, 0.5][int(generator(5, "crop_aspect", 0, "set/a.png").integers(3))]
    sizes = {1.0: (64, 64), 2.0: (88, 48), 0.5: (48, 88)}
    geometries = [geometry_in(sample, dataset, epoch, 5) for epoch in range(50)]
    assert {geometry.size for geometry in geometries} == {sizes[aspect]}
    assert len({geometry.crop for geometry in geometries}) > 1
