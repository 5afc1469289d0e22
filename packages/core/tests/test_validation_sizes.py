"""Sizes of pictures: rounded to what the family needs, and within what it and its weights take."""

from dataclasses import replace

import pytest

from tuner.config.checks import aligned_size, warnings
from tuner.config.loading import load_config
from tuner.errors import ConfigError
from tuner.validation.pictures import check_sides

TOPICS = ("optimisation", "model", "adapter", "validation", "precision", "memory")


@pytest.fixture
def loaded_with(write_config):
    """Load a configuration that makes pictures, for a family whose sides are multiples of 16."""

    def load(sizes, canvas_limit=None, **settings):
        loaded = load_config(write_config(validation_prompt="a cat", validation_resolution=sizes, **settings))
        return replace(
            loaded, family=replace(loaded.family, facts=replace(loaded.family.facts, canvas_limit=canvas_limit))
        )

    return load


def sizes_of(loaded):
    return [aligned_size(*size, loaded.family.facts) for size in loaded.config.validation.sizes()]


def warned(loaded):
    topics = {topic: getattr(loaded.config, topic) for topic in TOPICS}
    return [line for line in warnings(topics, loaded.family.facts) if line.startswith("validation_resolution")]


def test_every_size_of_the_list_is_made(loaded_with):
    loaded = loaded_with("1024, 1280x768,64X32")
    assert sizes_of(loaded) == [(1024, 1024), (1280, 768), (64, 32)]
    assert warned(loaded) == []


def test_sizes_that_do_not_fit_are_rounded_with_a_warning(loaded_with):
    loaded = loaded_with("1000x500,3")
    assert sizes_of(loaded) == [(992, 496), (16, 16)]
    assert warned(loaded) == [
        "validation_resolution 1000x500 is rounded to 992x496", "validation_resolution 3x3 is rounded to 16x16"
    ]  # fmt: skip


def test_sizes_beyond_the_canvas_shrink_with_a_warning(loaded_with):
    loaded = loaded_with("1024,2048,2048x1024,1280x832,832x1280", canvas_limit=1024 * 1024)
    assert sizes_of(loaded) == [(1024, 1024), (1024, 1024), (1440, 720), (1264, 816), (816, 1264)]
    lines = warned(loaded)
    assert len(lines) == 4
    assert lines[0] == (
        "validation_resolution 2048x2048 has more than the 1048576 pixels that Toy takes; "
        "pictures are made at 1024x1024"
    )


@pytest.mark.parametrize("size", [(100_000, 8), (8, 100_000), (1_000_000, 1_000_000), (1025, 1023), (1016, 1040)])
def test_no_shape_gets_beyond_the_canvas(loaded_with, size):
    loaded = loaded_with("{}x{}".format(*size), canvas_limit=1024 * 1024)
    ((width, height),) = sizes_of(loaded)
    assert width * height <= 1024 * 1024
    assert width % 16 == height % 16 == 0
    assert min(width, height) >= 16
    assert (width > height) == (size[0] > size[1]) or width == height


def test_a_malformed_size_is_refused(write_config):
    with pytest.raises(ConfigError, match=r"validation_resolution: .*'1024y1024' is no picture size"):
        load_config(write_config(validation_resolution="1024y1024"))


def test_sides_beyond_what_the_weights_take_are_refused(loaded_with):
    loaded = loaded_with("512,1040x512")
    check_sides(loaded, None)
    check_sides(loaded, 1040)
    with pytest.raises(ConfigError, match="1040x512 is too large: this model takes sides of at most 1024") as caught:
        check_sides(loaded, 1024)
    (problem,) = caught.value.problems
    assert (problem.file, problem.key) == (loaded.given["validation_resolution"].origin, "validation_resolution")
    check_sides(loaded_with("1040", validation_step_interval=0), 1024)
