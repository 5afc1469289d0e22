"""Crops that are centred on faces: a woman and a cat."""

import sys

import pytest
from PIL import Image
from skimage import data

from tuner.config.datasets import DatasetConfig
from tuner.data import faces
from tuner.data.build import build_plan
from tuner.data.faces import find_faces
from tuner.data.headers import read_headers
from tuner.data.images import load_pixels
from tuner.data.index import FileIndex
from tuner.data.scan import list_images
from tuner.errors import ConfigError

FACE = (222, 114)
"""Centre of the astronaut's face in her portrait of 512x512: between nose and eyes."""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def astronaut(box=(0, 0, 512, 512)):
    return Image.fromarray(data.astronaut()).crop(box)


def found_in(folder, index):
    headers = list(read_headers(folder, list_images(folder).images, index))
    return {path.rpartition("/")[2]: box for path, box in find_faces(folder, headers, index).items()}


def centre(box):
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def plan_for(folder, index, **settings):
    entry = {"id": "set", "instance_data_dir": folder, "resolution": 128, "crop": True, "crop_style": "face"}
    return build_plan(
        [DatasetConfig(**entry | settings)], batch_size=1, accumulation=1, alignment=8, aspect_rounding=2,
        keep_small_buckets=True, seed=1, index=index,
    )  # fmt: skip


def test_a_face_is_found_where_it_is(folder, index):
    astronaut().save(folder / "portrait.png")
    astronaut().resize((1024, 1024)).save(folder / "large.jpg", quality=95)
    astronaut((100, 0, 512, 300)).save(folder / "part.png")
    astronaut().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side, shown upright
    astronaut().transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=turned)
    boxes = found_in(folder, index)
    assert centre(boxes["portrait.png"]) == pytest.approx(FACE, abs=12)
    assert centre(boxes["large.jpg"]) == pytest.approx((444, 228), abs=24)
    assert centre(boxes["part.png"]) == pytest.approx((122, 114), abs=12)
    assert centre(boxes["mirrored.png"]) == pytest.approx((290, 114), abs=12)
    assert centre(boxes["turned.png"]) == pytest.approx(FACE, abs=12)
    assert 80 < boxes["portrait.png"][2] - boxes["portrait.png"][0] < 130


def test_of_several_faces_the_largest_counts(folder, index):
    both = Image.new("RGB", (768, 512), "white")
    both.paste(astronaut().resize((256, 256)), (0, 0))
    both.paste(astronaut(), (256, 0))
    both.save(folder / "both.png")
    assert centre(found_in(folder, index)["both.png"]) == pytest.approx((256 + 222, 114), abs=15)


def test_no_face(folder, index):
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    for width, height in ((1, 1), (24, 24), (2000, 30), (23, 400)):
        Image.new("RGB", (width, height), "tan").save(folder / f"{width}x{height}.png")
    (folder / "truncated.png").write_bytes((folder / "cat.png").read_bytes()[:5000])
    assert set(found_in(folder, index).values()) == {None}


def test_the_crop_keeps_the_face(folder, index):
    astronaut((0, 0, 512, 256)).save(folder / "wide.png")  # the face is at 222 of 512, 34 left of the middle
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    plan = plan_for(folder, index)
    cat, wide = plan.buckets[0].samples
    assert wide.geometry.resize == (256, 128)
    left = wide.geometry.crop[0]
    assert left == pytest.approx(222 / 2 - 64, abs=6)  # the middle would be 64
    assert wide.geometry.crop == (left, 0, left + 128, 128)
    assert cat.geometry.resize == (192, 128)  # 451x300
    assert cat.geometry.crop == (32, 0, 160, 128)
    pixels = load_pixels(wide.path, wide.geometry)
    whole = Image.open(folder / "wide.png").resize((256, 128), Image.Resampling.LANCZOS)
    whole.crop((left, 0, left + 128, 128)).save(folder / "expected.png")
    assert ((pixels + 1) * 127.5).round().permute(1, 2, 0).byte().numpy().tobytes() == Image.open(
        folder / "expected.png"
    ).tobytes()


def test_a_face_near_the_edge_keeps_the_crop_inside(folder, index):
    astronaut((160, 0, 512, 176)).save(folder / "edge.png")
    (sample,) = plan_for(folder, index).buckets[0].samples
    assert centre(found_in(folder, index)["edge.png"]) == pytest.approx((62, 114), abs=12)
    assert sample.geometry.crop == (0, 0, 128, 128)


def test_planning_again_opens_no_picture(folder, index, monkeypatch):
    astronaut().save(folder / "a.png")
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    opened = []
    load_rgb = faces.load_rgb
    monkeypatch.setattr(faces, "load_rgb", lambda path, geometry: (opened.append(path), load_rgb(path, geometry))[1])
    first = plan_for(folder, index)
    assert sorted(opened) == [str(folder / "a.png"), str(folder / "cat.png")]
    index.close()
    again = FileIndex(index.path.parent)
    assert plan_for(folder, again) == first
    assert len(opened) == 2
    Image.fromarray(data.chelsea()).resize((512, 512)).save(folder / "a.png")
    changed = plan_for(folder, again)
    assert opened[2:] == [str(folder / "a.png")]
    assert changed.buckets[0].samples[0].geometry.crop == (0, 0, 128, 128)
    again.close()


def test_only_pictures_that_are_cropped_to_faces_are_searched(folder, index, monkeypatch):
    astronaut().save(folder / "a.png")
    astronaut((0, 0, 100, 100)).save(folder / "small.png")
    opened = []
    load_rgb = faces.load_rgb
    monkeypatch.setattr(faces, "load_rgb", lambda path, geometry: (opened.append(path), load_rgb(path, geometry))[1])
    plan_for(folder, index, crop=False)
    plan_for(folder, index, crop_style="center")
    assert opened == []
    plan_for(folder, index, minimum_image_size=200)
    assert opened == [str(folder / "a.png")]


def test_without_the_package_the_run_stops_before_anything_is_computed(folder, index, monkeypatch):
    (folder / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "skimage", None)  # Python then says that it is not there
    with pytest.raises(ConfigError) as caught:
        plan_for(folder, index)
    (problem,) = caught.value.problems
    assert (problem.file, problem.key) == ("data set file, data set 'set'", "crop_style")
    assert problem.message == "face needs the package scikit-image, which is not installed"
    assert problem.remedy == "pip install 'tuner-core[face]', or use center, random or corner"
    assert index.headers_below(str(folder)) == {}
