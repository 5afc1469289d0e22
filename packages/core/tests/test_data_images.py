"""Pictures of every kind, pixel by pixel."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.data.images import UnreadableImage, load_pixels, read_size
from tuner.data.sample import Geometry
from tuner.errors import TunerError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
UPRIGHT = [[RED, GREEN, WHITE], [BLUE, WHITE, WHITE]]
"""The picture, 3 wide and 2 high, that every orientation below shows."""


def whole(width, height):
    return Geometry((width, height), (0, 0, width, height))


def levels(pixels):
    """Back to integers, (H, W, 3)."""
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).tolist()


def stored(orientation):
    """The array that a camera stores so that `orientation` shows UPRIGHT."""
    picture = np.array(UPRIGHT, dtype=np.uint8)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](picture))


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored(orientation)).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert read_size(path) == (3, 2)
    assert levels(load_pixels(path, whole(3, 2))) == [[list(pixel) for pixel in row] for row in UPRIGHT]


def test_exif_orientation_of_a_jpeg(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(np.repeat(np.repeat(stored(6), 16, 0), 16, 1)).save(path, exif=exif, quality=100, subsampling=0)
    assert read_size(path) == (48, 32)
    pixels = load_pixels(path, whole(48, 32))
    corners = pixels[:, [8, 8, 24], [8, 24, 8]].T
    assert torch.allclose(corners, torch.tensor([RED, GREEN, BLUE]) / 127.5 - 1, atol=0.05)


def test_an_impossible_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png", exif=exif)
    assert read_size(tmp_path / "a.png") == (3, 2)


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_damaged_exif_spoils_no_pixels(tmp_path, suffix, exif):
    Image.new("RGB", (3, 2), WHITE).save(tmp_path / f"a.{suffix}", exif=exif)
    assert read_size(tmp_path / f"a.{suffix}") == (3, 2)
    assert load_pixels(tmp_path / f"a.{suffix}", whole(3, 2)).min() > 0.99


def test_pixels_are_float_rgb_in_minus_one_to_one(tmp_path):
    Image.fromarray(np.array([[[0, 51, 255]]], dtype=np.uint8)).save(tmp_path / "a.png")
    pixels = load_pixels(tmp_path / "a.png", whole(1, 1))
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert torch.allclose(pixels.flatten(), torch.tensor([-1.0, -0.6, 1.0]), atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    path = tmp_path / "a.png"
    if mode == "P":
        indexed = Image.new("P", (2, 1), 0)
        indexed.putpalette([0, 0, 0, 10, 20, 30])
        indexed.putpixel((1, 0), 1)
        indexed.save(path, transparency=1)
    else:
        image.convert(mode).save(path)
    assert levels(load_pixels(path, whole(2, 1))) == [[[0, 0, 0], [255, 255, 255]]]


def test_half_transparency_is_blended(tmp_path):
    Image.new("RGBA", (1, 1), (255, 0, 0, 51)).save(tmp_path / "a.png")
    assert levels(load_pixels(tmp_path / "a.png", whole(1, 1))) == [[[255, 204, 204]]]


def test_palette(tmp_path):
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png")
    assert levels(load_pixels(tmp_path / "a.png", whole(1, 1))) == [[[10, 20, 30]]]


def test_sixteen_bits_of_grey_keep_their_range(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert levels(load_pixels(tmp_path / "a.png", whole(3, 1))) == [[[0] * 3, [100] * 3, [255] * 3]]


@pytest.mark.parametrize(("mode", "colour", "grey"), [("L", 100, 100), ("1", 1, 255)])
def test_grey_and_bilevel(tmp_path, mode, colour, grey):
    Image.new(mode, (1, 1), colour).save(tmp_path / "a.png")
    assert levels(load_pixels(tmp_path / "a.png", whole(1, 1))) == [[[grey] * 3]]


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = load_pixels(tmp_path / "a.jpg", whole(16, 16))[:, 8, 8]
    assert torch.allclose(red, torch.tensor([1.0, -1.0, -1.0]), atol=0.05)


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (BLUE, RED)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("a.gif", "a.webp"):
        assert levels(load_pixels(tmp_path / name, whole(4, 4)))[0][0] == list(BLUE)


def test_pictures_in_pictures_of_phones_are_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), WHITE), Image.new("RGB", (8, 8), RED)]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert levels(load_pixels(tmp_path / "a.jpg", whole(8, 8)))[0][0] == [255, 255, 255]


def test_crop_keeps_the_named_pixels(tmp_path):
    image = Image.new("RGB", (10, 8))
    image.putpixel((7, 5), RED)
    image.save(tmp_path / "a.png")
    pixels = load_pixels(tmp_path / "a.png", Geometry((10, 8), (4, 3, 9, 7)))
    assert pixels.shape == (3, 4, 5)
    assert (pixels[0] == 1).nonzero().tolist() == [[2, 3]]


def test_resizing_is_lanczos_and_comes_before_the_crop(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    expected = Image.fromarray(noise).resize((16, 12), Image.Resampling.LANCZOS).crop((2, 1, 10, 9))
    pixels = load_pixels(tmp_path / "a.png", Geometry((16, 12), (2, 1, 10, 9)))
    assert levels(pixels) == np.asarray(expected).tolist()


def test_a_reduction_comes_before_the_resizing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    expected = Image.fromarray(noise)
    for size in ((20, 15), (16, 12)):
        expected = expected.resize(size, Image.Resampling.LANCZOS)
    pixels = load_pixels(tmp_path / "a.png", Geometry((16, 12), (0, 0, 16, 12), downsample=(20, 15)))
    assert levels(pixels) == np.asarray(expected).tolist()


def noise_bytes(name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, name)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_truncated_pixels(tmp_path, name):
    data = noise_bytes(name)
    path = tmp_path / "a.img"
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(UnreadableImage, match=r"truncated|damaged"):
        load_pixels(path, whole(64, 64))


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_the_size_of_a_truncated_picture_is_still_known(tmp_path, name):
    data = noise_bytes(name)
    path = tmp_path / "a.img"
    path.write_bytes(data[: len(data) * 2 // 3])
    assert read_size(path) == (64, 64)


def test_damaged_pixels(tmp_path):
    data = bytearray(noise_bytes("PNG"))
    data[2000:2100] = bytes(100)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnreadableImage, match="damaged"):
        load_pixels(tmp_path / "a.png", whole(64, 64))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "is no picture in a format that is read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is no picture in a format that is read"),
    ],
)
def test_files_that_are_no_pictures(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_size, lambda path: load_pixels(path, whole(8, 8))):
        with pytest.raises(UnreadableImage, match=reason) as caught:
            read(tmp_path / "a.png")
        assert caught.value.lasting
        assert isinstance(caught.value, TunerError)


def test_a_missing_file_may_come_back(tmp_path):
    with pytest.raises(UnreadableImage, match="cannot be opened: No such file") as caught:
        read_size(tmp_path / "a.png")
    assert not caught.value.lasting


def test_decompression_bombs(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="more than 2000 pixels"):
        read_size(tmp_path / "a.png")


def test_floating_point_pixels_have_no_range(tmp_path):
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableImage, match="floating-point"):
        load_pixels(tmp_path / "a.tiff", whole(2, 2))
