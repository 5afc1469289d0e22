"""Sizes, crops and filters, by number."""

import pytest

from tuner.config.datasets import DatasetConfig
from tuner.data.filters import left_out
from tuner.data.geometry import (
    SizeRules,
    cover,
    edge_of,
    fit_canvas,
    picture_geometry,
    reduced,
    round_to,
    target_size,
)
from tuner.data.sample import Geometry

RULES = SizeRules(alignment=64, aspect_rounding=2)


def dataset(**settings):
    return DatasetConfig(id="set", instance_data_dir="pictures", **settings)


@pytest.mark.parametrize(
    ("megapixels", "edge"),
    [(0.25, 512), (0.2, 512), (0.3, 512), (0.5, 768), (0.55, 768), (1, 1024), (0.95, 1024), (2, 1536), (4.05, 2048)],
)
def test_megapixels_near_a_customary_size_give_its_edge(megapixels, edge):
    assert edge_of(megapixels, "area") == edge


@pytest.mark.parametrize(("megapixels", "edge"), [(0.75, 886.81), (0.56, 766.29), (9, 3072.0), (0.0625, 256.0)])
def test_other_megapixels_give_the_edge_of_their_area(megapixels, edge):
    assert edge_of(megapixels, "area") == pytest.approx(edge, abs=0.01)


def test_edges_are_pixels_in_the_other_units():
    assert (edge_of(512, "pixel"), edge_of(512, "pixel_area")) == (512, 512)


@pytest.mark.parametrize(("value", "rounded"), [(1, 64), (95.9, 64), (96, 128), (1254.1, 1280), (836.1, 832)])
def test_sides_are_rounded_to_the_nearest_multiple_halves_up(value, rounded):
    assert round_to(value, 64) == rounded


@pytest.mark.parametrize(
    ("aspect", "edge", "unit", "alignment", "size"),
    [
        (1.0, 1024, "pixel_area", 64, (1024, 1024)),
        (1.5, 1024, "pixel_area", 64, (1280, 832)),
        (0.66, 1024, "pixel_area", 64, (832, 1280)),
        (1.5, 1024, "pixel_area", 8, (1256, 840)),
        (0.66, 1024, "pixel_area", 8, (832, 1264)),
        (1.5, 512, "pixel_area", 16, (624, 416)),
        (0.66, 512, "pixel_area", 24, (408, 624)),
        (1.5, 512, "pixel_area", 32, (640, 416)),
        (1.5, 1024, "area", 64, (1280, 832)),
        (1.0, 512, "pixel", 64, (512, 512)),
        (1.5, 512, "pixel", 64, (768, 512)),
        (0.66, 512, "pixel", 64, (512, 768)),
        (0.66, 512, "pixel", 8, (512, 776)),
    ],
)
def test_bucket_sizes(aspect, edge, unit, alignment, size):
    assert target_size(aspect, edge, unit, alignment) == size


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1280, 832), (1216, 832)),
        ((832, 1280), (832, 1216)),
        ((1536, 1024), (1216, 832)),
        ((2048, 512), (2048, 512)),
    ],
)
def test_buckets_are_made_to_fit_the_canvas(size, fitted):
    assert fit_canvas(size, 1024 * 1024, 64) == fitted


def test_a_canvas_smaller_than_one_alignment_gives_one_alignment():
    assert fit_canvas((128, 64), 100, 64) == (64, 64)


@pytest.mark.parametrize(
    ("source", "size", "covering"),
    [
        ((1500, 1000), (1280, 832), (1280, 853)),
        ((1000, 1500), (832, 1280), (853, 1280)),
        ((640, 640), (1024, 1024), (1024, 1024)),
        ((1, 1000), (64, 64), (64, 64000)),
        ((1920, 1080), (1024, 1024), (1820, 1024)),
    ],
)
def test_the_resized_picture_just_covers_the_bucket(source, size, covering):
    assert cover(source, size) == covering


@pytest.mark.parametrize("style", ["random", "corner", "center"])
def test_without_crop_the_surplus_is_trimmed_evenly(style):
    geometry = picture_geometry(dataset(crop_style=style), (1500, 1000), RULES, 1, "set/a.png")
    assert geometry == Geometry((1280, 853), (0, 10, 1280, 842))


def test_square_crop_in_the_centre():
    settings = {"crop": True, "crop_style": "centre", "resolution": 512}
    geometry = picture_geometry(dataset(**settings), (1920, 1080), RULES, 1, "set/a.png")
    assert geometry == Geometry((910, 512), (199, 0, 711, 512))


def test_square_crop_at_the_corner():
    settings = {"crop": True, "crop_style": "corner", "resolution": 512}
    geometry = picture_geometry(dataset(**settings), (1080, 1920), RULES, 1, "set/a.png")
    assert geometry == Geometry((512, 910), (0, 0, 512, 512))


def test_a_square_crop_is_aligned():
    settings = {"crop": True, "crop_style": "center", "resolution": 500, "resolution_type": "pixel"}
    assert picture_geometry(dataset(**settings), (900, 900), RULES, 1, "set/a.png").size == (512, 512)


def test_random_crops_depend_on_seed_and_key_and_reach_every_position():
    settings = dataset(crop=True, resolution=64)
    lefts = [picture_geometry(settings, (67, 64), RULES, 7, f"set/{n}.png").crop[0] for n in range(200)]
    assert sorted(set(lefts)) == [0, 1, 2, 3]
    assert lefts == [picture_geometry(settings, (67, 64), RULES, 7, f"set/{n}.png").crop[0] for n in range(200)]
    assert lefts != [picture_geometry(settings, (67, 64), RULES, 8, f"set/{n}.png").crop[0] for n in range(200)]


def test_preserve_crops_to_the_pictures_own_aspect():
    settings = {"crop": True, "crop_aspect": "preserve", "crop_style": "corner"}
    geometry = picture_geometry(dataset(**settings), (1500, 1000), RULES, 1, "set/a.png")
    assert geometry == Geometry((1280, 853), (0, 0, 1280, 832))


@pytest.mark.parametrize(
    ("source", "size"), [((700, 1000), (832, 1280)), ((990, 1000), (1024, 1024)), ((2000, 1000), (1280, 832))]
)
def test_closest_takes_the_nearest_ratio(source, size):
    settings = {"crop": True, "crop_aspect": "closest", "crop_aspect_buckets": [1.0, 1.5, 0.66]}
    assert picture_geometry(dataset(**settings), source, RULES, 1, "set/a.png").size == size


def test_closest_measures_ratios_on_a_logarithmic_scale():
    settings = {"crop": True, "crop_aspect": "closest", "crop_aspect_buckets": [0.5, 2.0], "resolution": 512}
    geometry = picture_geometry(dataset(**settings), (1100, 1000), RULES, 1, "set/a.png")
    assert geometry.size == (704, 384)  # 1.1 lies nearer to 0.5 than to 2.0 only by subtraction


def test_random_aspects_depend_on_seed_and_key_and_use_every_ratio():
    settings = dataset(
        crop=True, crop_aspect="random", crop_aspect_buckets=[1.0, 1.5, 0.66], crop_style="center", resolution=512
    )
    sizes = [picture_geometry(settings, (900, 900), RULES, 3, f"set/{n}.png").size for n in range(60)]
    assert set(sizes) == {(512, 512), (640, 448), (384, 640)}
    assert sizes == [picture_geometry(settings, (900, 900), RULES, 3, f"set/{n}.png").size for n in range(60)]


FACES = [
    # the crop is 512x512 of 910x512: what is 1 pixel in 1920x1080 is 0.474 there
    pytest.param((900, 100, 1100, 300), 218, id="near the middle"),  # 1000 * 910 / 1920 - 256 = 217.96
    pytest.param((0, 0, 200, 200), 0, id="at the left edge"),
    pytest.param((1700, 0, 1900, 200), 398, id="at the right edge"),
    pytest.param((600, 500, 700, 600), 52, id="in the left half"),  # 650 * 910 / 1920 - 256 = 52.07
    pytest.param(None, 199, id="none"),
]


@pytest.mark.parametrize(("face", "left"), FACES)
def test_a_crop_is_centred_on_the_face_as_far_as_the_picture_allows(face, left):
    settings = dataset(crop=True, crop_style="face", resolution=512)
    geometry = picture_geometry(settings, (1920, 1080), RULES, 1, "k", face)
    assert geometry == Geometry((910, 512), (left, 0, left + 512, 512))
    upright = None if face is None else (face[1], face[0], face[3], face[2])
    geometry = picture_geometry(settings, (1080, 1920), RULES, 1, "k", upright)
    assert geometry == Geometry((512, 910), (0, left, 512, left + 512))


@pytest.mark.parametrize("style", ["center", "corner", "random"])
def test_faces_concern_no_other_style(style):
    settings = dataset(crop=True, crop_style=style, resolution=512)
    with_face = picture_geometry(settings, (1920, 1080), RULES, 1, "k", (1700, 0, 1900, 200))
    assert with_face == picture_geometry(settings, (1920, 1080), RULES, 1, "k")


@pytest.mark.parametrize(
    ("settings", "source", "stays"),
    [
        ({"minimum_aspect_ratio": 1.5}, (1500, 1000), True),
        ({"minimum_aspect_ratio": 1.5}, (1499, 1000), False),
        ({"maximum_aspect_ratio": 1.5}, (1500, 1000), True),
        ({"maximum_aspect_ratio": 1.5}, (1501, 1000), False),
        ({"minimum_aspect_ratio": 0.5, "maximum_aspect_ratio": 2.0}, (500, 1000), True),
        ({"minimum_aspect_ratio": 0.5, "maximum_aspect_ratio": 2.0}, (1000, 500), True),
        ({"minimum_aspect_ratio": 0.5, "maximum_aspect_ratio": 2.0}, (499, 1000), False),
        ({"minimum_aspect_ratio": 0.5, "maximum_aspect_ratio": 2.0}, (1000, 499), False),
        ({"minimum_aspect_ratio": 1.0, "maximum_aspect_ratio": 1.0, "crop": True}, (64, 64), True),
    ],
)
def test_aspect_ratios_at_the_edge_stay(settings, source, stays):
    assert (left_out(dataset(**settings), source) is None) is stays


@pytest.mark.parametrize(
    ("decimals", "sizes"),
    [
        # 1000 / 707 = 1.41442..., edge 1024, sides in steps of 8
        (1, (1208, 864)),  # 1.4: 1211.6 x 865.4
        (2, (1216, 864)),  # 1.41: 1215.9 x 862.4
        (3, (1216, 864)),
        (9, (1216, 864)),
    ],
)
def test_the_bucket_is_that_of_the_rounded_aspect(decimals, sizes):
    rules = SizeRules(alignment=8, aspect_rounding=decimals)
    assert picture_geometry(dataset(), (1000, 707), rules, 1, "k").size == sizes


@pytest.mark.parametrize("decimals", range(1, 10))
def test_every_rounding_gives_the_size_of_the_formula(decimals):
    rules = SizeRules(alignment=8, aspect_rounding=decimals)
    for width in range(400, 2500, 37):
        aspect = round(width / 1000, decimals)
        expected = tuple(8 * int(side / 8 + 0.5) for side in (512 * aspect**0.5, 512 / aspect**0.5))
        assert picture_geometry(dataset(resolution=512), (width, 1000), rules, 1, "k").size == expected


def test_coarser_rounding_puts_more_aspects_into_one_bucket():
    def sizes(rounding):
        rules = SizeRules(alignment=8, aspect_rounding=rounding)
        return {picture_geometry(dataset(), (w, 1000), rules, 1, "k").size for w in (1451, 1480, 1500, 1549)}

    assert sizes(1) == {(1256, 840)}
    assert len(sizes(2)) == 4


def test_an_aspect_that_rounds_to_zero_still_gives_a_bucket():
    assert picture_geometry(dataset(resolution=64), (1, 5000), RULES, 1, "k").size == (64, 640)


@pytest.mark.parametrize(
    ("settings", "source", "small"),
    [
        ({"minimum_image_size": 512, "resolution_type": "pixel"}, (511, 9000), True),
        ({"minimum_image_size": 512, "resolution_type": "pixel"}, (512, 512), False),
        ({"minimum_image_size": 512}, (256, 1023), True),
        ({"minimum_image_size": 512}, (256, 1024), False),
        ({"minimum_image_size": 512, "crop": True}, (256, 1024), True),
        ({"minimum_image_size": 512, "crop": True}, (512, 512), False),
        ({"minimum_image_size": 512, "crop": True, "crop_aspect": "preserve"}, (256, 1024), False),
        ({"minimum_image_size": 0.25, "resolution_type": "area", "resolution": 1}, (512, 511), True),
        ({"minimum_image_size": 0.25, "resolution_type": "area", "resolution": 1}, (512, 512), False),
        ({"minimum_image_size": 0}, (1, 1), False),
        ({}, (1, 1), False),
    ],
)
def test_minimum_image_size(settings, source, small):
    assert (left_out(dataset(**settings), source) is not None) is small


@pytest.mark.parametrize(
    ("unit", "maximum", "target", "source", "size"),
    [
        ("pixel_area", 1536, 1280, (2560, 2560), (1280, 1280)),
        ("pixel_area", 1536, 1280, (3840, 1920), (1810, 905)),
        ("pixel_area", 1536, 1280, (1536, 1536), None),
        ("pixel", 1536, 1280, (1536, 4000), None),
        ("pixel", 1536, 1280, (2000, 4000), (1280, 2560)),
        ("area", 2, 1, (2048, 2048), (1024, 1024)),
        ("pixel_area", 512, 4096, (1024, 1024), None),
    ],
)
def test_pictures_above_the_maximum_are_reduced_before_a_crop(unit, maximum, target, source, size):
    settings = dataset(
        crop=True, resolution_type=unit, resolution=1, maximum_image_size=maximum, target_downsample_size=target
    )
    assert reduced(settings, source) == size


def test_the_crop_is_a_window_of_the_reduced_picture():
    settings = dataset(crop=True, crop_style="center", maximum_image_size=1536, target_downsample_size=1280)
    geometry = picture_geometry(settings, (2560, 2560), RULES, 1, "k")
    assert geometry == Geometry((1280, 1280), (128, 128, 1152, 1152), (1280, 1280))


def test_a_reduction_below_the_bucket_is_not_enlarged_again():
    settings = dataset(crop=True, crop_style="center", maximum_image_size=1536, target_downsample_size=512)
    assert picture_geometry(settings, (2560, 2560), RULES, 1, "k") == Geometry((1024, 1024), (0, 0, 1024, 1024))


def test_the_maximum_does_not_concern_pictures_that_are_not_cropped():
    settings = dataset(maximum_image_size=1536, target_downsample_size=1280)
    assert picture_geometry(settings, (2560, 2560), RULES, 1, "k") == Geometry((1024, 1024), (0, 0, 1024, 1024))
