"""Kinds of pictures that are met less often, pixel by pixel."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.data.images import UnreadableImage, load_pixels, read_size
from tuner.data.sample import Geometry


def levels(path, width, height):
    """Return a picture's pixels as integers, (H, W, 3)."""
    assert read_size(path) == (width, height)
    pixels = load_pixels(path, Geometry((width, height), (0, 0, width, height)))
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def png(path, pixels, colour_type, depth, chunks=()):
    """Write a PNG as the standard says: what Pillow cannot write itself. Pixels: (H, W) or (H, W, channels)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*item) for item in chunks), chunk(b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


SIXTEEN = np.array([0, 1, 255, 256, 32767, 32768, 65279, 65535], dtype=np.uint16)
EIGHT = np.array([0, 0, 1, 1, 127, 128, 254, 255])
"""The same, divided by 257 and rounded."""


def test_sixteen_bits_of_colour_as_png(tmp_path):
    pixels = np.stack([SIXTEEN, SIXTEEN[::-1], np.full(8, 65535)], axis=1)[None]
    png(tmp_path / "a.png", pixels, colour_type=2, depth=16)
    expected = np.stack([EIGHT, EIGHT[::-1], np.full(8, 255)], axis=1)[None]
    # Pillow keeps the upper eight bits, so a level may be one off.
    assert np.abs(levels(tmp_path / "a.png", 8, 1).astype(int) - expected).max() <= 1


def test_sixteen_bits_of_colour_and_opacity_as_png(tmp_path):
    opaque, clear = [65535, 0, 32768, 65535], [65535, 0, 32768, 0]
    png(tmp_path / "a.png", np.array([[opaque, clear]]), colour_type=6, depth=16)
    assert levels(tmp_path / "a.png", 2, 1).tolist() == [[[255, 0, 128], [255, 255, 255]]]


def test_sixteen_bits_of_grey_and_opacity_as_png(tmp_path):
    png(tmp_path / "a.png", np.array([[[32768, 65535], [0, 0]]]), colour_type=4, depth=16)
    assert levels(tmp_path / "a.png", 2, 1).tolist() == [[[128] * 3, [255] * 3]]


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_of_grey_as_tiff(tmp_path, order):
    Image.fromarray(SIXTEEN[None].astype(order)).save(tmp_path / "a.tif")
    assert levels(tmp_path / "a.tif", 8, 1)[0, :, 0].tolist() == EIGHT.tolist()


def test_sixteen_bits_of_grey_with_a_transparent_level(tmp_path):
    png(tmp_path / "a.png", SIXTEEN[None], 0, 16, [(b"tRNS", struct.pack(">H", 32768))])
    expected = [0, 0, 1, 1, 127, 255, 254, 255]
    assert levels(tmp_path / "a.png", 8, 1)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9))])
def test_a_transparent_colour_without_an_alpha_channel(tmp_path, mode, colour):
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((0, 0), 100 if mode == "L" else (100, 100, 100))
    image.save(tmp_path / "a.png", transparency=colour)
    assert levels(tmp_path / "a.png", 2, 1).tolist() == [[[100] * 3, [255] * 3]]


def test_a_palette_with_degrees_of_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="P")
    image.putpalette([255, 0, 0] * 3)
    image.save(tmp_path / "a.png", transparency=bytes([255, 51, 0]))
    assert levels(tmp_path / "a.png", 3, 1).tolist() == [[[255, 0, 0], [255, 204, 204], [255, 255, 255]]]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_grey(tmp_path, depth):
    most = 2**depth - 1
    content = np.array([[most << (8 - depth)]], dtype=np.uint8)  # one pixel, in the upper bits of a byte
    png(tmp_path / "a.png", content, 0, depth)
    assert levels(tmp_path / "a.png", 1, 1).tolist() == [[[255] * 3]]


def test_opacity_of_lossless_webp(tmp_path):
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 51], [0, 0, 0, 0]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True, exact=True)
    assert levels(tmp_path / "a.webp", 3, 1).tolist() == [[[255, 0, 0], [255, 204, 204], [255, 255, 255]]]


def test_opacity_of_lossy_webp(tmp_path):
    pixels = np.zeros((16, 32, 4), dtype=np.uint8)
    pixels[:, :16] = [200, 100, 50, 255]
    Image.fromarray(pixels).save(tmp_path / "a.webp", quality=95)
    found = levels(tmp_path / "a.webp", 32, 16).astype(int)
    assert np.abs(found[4:12, 4:12] - [200, 100, 50]).max() <= 4  # lossy
    assert (found[4:12, 20:28] == 255).all()


def test_transparency_of_gif(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.save(tmp_path / "a.gif", transparency=1)
    assert levels(tmp_path / "a.gif", 2, 1).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_a_transparent_animation_the_first_frame_counts(tmp_path, suffix):
    frames = [Image.new("RGBA", (4, 4), (0, 0, 255, 255)), Image.new("RGBA", (4, 4), (255, 0, 0, 255))]
    frames[0].paste((0, 0, 0, 0), (1, 0, 3, 4))
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    found = levels(tmp_path / f"a.{suffix}", 4, 4)
    assert (found[:, 1:3] == 255).all()
    assert (found[:, [0, 3]] == [0, 0, 255]).all()


def test_cmyk_without_loss(tmp_path):
    image = Image.new("CMYK", (2, 1), (0, 255, 255, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.save(tmp_path / "a.tif")
    assert levels(tmp_path / "a.tif", 2, 1).tolist() == [[[255, 0, 0], [0, 0, 0]]]


def test_grey_as_jpeg(tmp_path):
    Image.new("L", (16, 16), 77).save(tmp_path / "a.jpg", quality=100)
    assert (levels(tmp_path / "a.jpg", 16, 16) == 77).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_files_without_bytes(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").touch()
    for read in (read_size, lambda path: load_pixels(path, Geometry((8, 8), (0, 0, 8, 8)))):
        with pytest.raises(UnreadableImage, match=r"^is empty \(0 bytes\)$"):
            read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_that_were_cut_off(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    first, second = map(Image.fromarray, noise)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 4])
    with pytest.raises(UnreadableImage, match=r"truncated|damaged"):
        load_pixels(tmp_path / f"a.{suffix}", Geometry((64, 64), (0, 0, 64, 64)))
