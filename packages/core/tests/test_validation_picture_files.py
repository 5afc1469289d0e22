"""Files of pictures: whole or absent, comparable or not, and side by side to the pixel."""

import numpy as np
import pytest
from PIL import Image

from tuner.validation.picture_files import GAP, comparable, write_picture, write_side_by_side


def noise(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pictures_stand_side_by_side(tmp_path, count):
    width, height = 120, 80
    files = [write_picture(noise(width, height, seed), tmp_path / f"{seed}.png", "x") for seed in range(count)]
    sheet = pixels(write_side_by_side([(f"label {file.stem}", file) for file in files], tmp_path / "sheet.png"))
    assert sheet.shape == (height, count * width + (count - 1) * GAP, 3)
    assert GAP == 5
    for number, file in enumerate(files):
        left = number * (width + GAP)
        column, alone = sheet[:, left : left + width], pixels(file)
        labelled = 0 if count == 1 else height // 4
        assert np.array_equal(column[labelled:], alone[labelled:])
        assert (count == 1) == np.array_equal(column, alone), "only a single picture needs no label"
        if number:
            assert (sheet[:, left - GAP : left] == 255).all()


def test_pictures_are_comparable_if_they_differ_by_the_model_alone(tmp_path):
    def write(name, width, sampled_as):
        return write_picture(noise(width, 40, 0), tmp_path / name, sampled_as)

    one = write("one.png", 60, "a cat, guidance 3")
    assert comparable(one, write("same.png", 60, "a cat, guidance 3"))
    assert not comparable(one, write("prompt.png", 60, "a cat, guidance 4"))
    assert not comparable(one, write("size.png", 61, "a cat, guidance 3"))
    assert not comparable(one, tmp_path / "absent.png")
    noise(60, 40, 0).save(tmp_path / "strange.png")
    assert not comparable(tmp_path / "strange.png", tmp_path / "strange.png")
    (tmp_path / "torn.png").write_bytes(one.read_bytes()[:20])
    assert not comparable(tmp_path / "torn.png", one)


def test_the_same_picture_has_the_same_bytes_and_tells_no_prompt(tmp_path):
    first, second = (write_picture(noise(60, 40, 1), tmp_path / f"{name}.png", "a secret cat") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert b"secret" not in first.read_bytes()


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path):
    class Torn(Image.Image):
        def save(self, file, **rest):
            file.write_bytes(b"half")
            raise OSError("disk full")

    path = write_picture(noise(60, 40, 1), tmp_path / "a.png", "x")
    before = path.read_bytes()
    with pytest.raises(OSError, match="disk full"):
        write_picture(Torn(), path, "x")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
