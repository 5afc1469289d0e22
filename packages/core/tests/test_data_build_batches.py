"""How many samples a batch needs: each data set's own number, repeats that are raised, and what a refusal says."""

import logging
from collections import Counter

import pytest
from PIL import Image

from tuner.config.datasets import DatasetConfig
from tuner.data.build import build_plan
from tuner.data.index import FileIndex
from tuner.data.order import batches_per_epoch, micro_batch, steps_per_epoch
from tuner.data.report import format_buckets, plan_as_json
from tuner.errors import DatasetError


@pytest.fixture
def pictures(tmp_path):
    """Return a folder with `squares` square and `wides` wide pictures."""

    def make(name="pictures", squares=0, wides=0):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(squares):
            Image.new("RGB", (64, 64)).save(folder / f"square_{number}.png")
        for number in range(wides):
            Image.new("RGB", (96, 64)).save(folder / f"wide_{number}.png")
        return folder

    return make


@pytest.fixture
def plan_for(tmp_path):
    index = FileIndex(tmp_path / "cache")

    def plan(*datasets, **settings):
        return build_plan(
            datasets,
            **{
                "batch_size": 4, "accumulation": 1, "alignment": 8, "aspect_rounding": 2, "keep_small_buckets": False,
                "seed": 1, "index": index, **settings,
            },
        )  # fmt: skip

    yield plan
    index.close()


def dataset(folder, **settings):
    return DatasetConfig(**{"id": folder.name, "instance_data_dir": folder, "resolution": 64, **settings})


def refusal(plan_for, *datasets, **settings):
    with pytest.raises(DatasetError) as caught:
        plan_for(*datasets, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("repeats", "batches"),
    [(0, 2 + 1), (1, 3 + 2), (3, 5 + 3)],  # ceil(5 (N+1) / 4) + ceil(3 (N+1) / 4), buckets of 3 below a batch of 4
)
def test_batches_per_epoch(pictures, plan_for, repeats, batches):
    entry = dataset(pictures(squares=5, wides=3), repeats=repeats)
    plan = plan_for(entry, keep_small_buckets=True)
    assert batches_per_epoch(plan) == batches
    pruned = plan_for(entry)
    assert batches_per_epoch(pruned) == (2 if repeats == 0 else batches)


def test_a_data_sets_own_batch_size_cuts_its_batches(pictures, plan_for):
    many, few = pictures("many", squares=9), pictures("few", squares=3)
    plan = plan_for(dataset(many), dataset(few, train_batch_size=2), accumulation=2)
    assert [(bucket.id, bucket.batch_size, bucket.batches()) for bucket in plan.buckets] == [
        ("many/64x64", 4, 3),
        ("few/64x64", 2, 2),
    ]
    assert (batches_per_epoch(plan), steps_per_epoch(plan)) == (5, 3)
    drawn = [micro_batch(plan, 7, index) for index in range(5)]
    assert Counter((batch[0].sample.dataset, len(batch)) for batch in drawn) == {
        ("many", 4): 2,
        ("many", 1): 1,
        ("few", 2): 1,
        ("few", 1): 1,
    }
    assert len({draw.key for batch in drawn for draw in batch}) == 12


def test_the_report_tells_each_batch_size(pictures, plan_for):
    plan = plan_for(dataset(pictures("a", squares=8)), dataset(pictures("b", squares=3), train_batch_size=2))
    assert format_buckets(plan).splitlines() == [
        "data set  bucket  aspect  images  repeats  samples  batch  batches",
        "a          64x64       1       8        0        8      4        2",
        "b          64x64       1       3        0        3      2        2",
        "",
        "total: 11 images, 11 samples per epoch, 4 batches of 2 or 4, 4 optimizer steps of 1 batch",
    ]
    assert [bucket["train_batch_size"] for bucket in plan_as_json(plan)["buckets"]] == [4, 2]


def test_a_data_sets_own_batch_size_decides_what_is_pruned(pictures, plan_for):
    folder = pictures(squares=5, wides=3)
    assert len(plan_for(dataset(folder)).buckets) == 1
    assert len(plan_for(dataset(folder, train_batch_size=3)).buckets) == 2
    text = refusal(plan_for, dataset(folder, train_batch_size=6))
    assert "gives 5 samples per epoch, fewer than train_batch_size 6" in text


@pytest.mark.parametrize(
    ("squares", "wides", "batch_size", "repeats"),
    [(5, 3, 4, 1), (5, 3, 9, 2), (5, 3, 10, 3), (1, 0, 4, 3), (5, 0, 5, 0), (5, 1, 6, 5)],
)
def test_repeats_are_raised_until_every_bucket_fills_a_batch(
    pictures, plan_for, caplog, squares, wides, batch_size, repeats
):
    folder = pictures(squares=squares, wides=wides)
    with caplog.at_level(logging.WARNING):
        plan = plan_for(dataset(folder), batch_size=batch_size, oversubscribe=True)
    assert {bucket.repeats for bucket in plan.buckets} == {repeats}
    assert min(bucket.draws for bucket in plan.buckets) >= batch_size
    assert plan.unused == ()
    assert caplog.messages == (
        [
            f"data set pictures: repeats raised from 0 to {repeats}, so that each of its buckets fills a batch of "
            f"{batch_size} (allow_dataset_oversubscription)"
        ]
        if repeats
        else []
    )
    if repeats:  # one less would not do
        assert plan_for(dataset(folder, repeats=repeats), batch_size=batch_size).unused == ()
        less = plan_for(dataset(folder, repeats=repeats - 1), batch_size=batch_size, keep_small_buckets=True)
        assert min(bucket.draws for bucket in less.buckets) < batch_size


def test_each_data_set_is_raised_to_its_own_batch_size(pictures, plan_for):
    plan = plan_for(
        dataset(pictures("a", squares=3)),
        dataset(pictures("b", squares=3), train_batch_size=7),
        dataset(pictures("c", squares=3), train_batch_size=3),
        oversubscribe=True,
    )
    assert [bucket.repeats for bucket in plan.buckets] == [1, 2, 0]


@pytest.mark.parametrize("repeats", [0, 1])
def test_repeats_that_are_given_stay(pictures, plan_for, repeats):
    text = refusal(plan_for, dataset(pictures(squares=3), repeats=repeats), batch_size=7, oversubscribe=True)
    assert "set repeats to 2 or more" in text


def test_what_is_raised_belongs_to_the_fingerprint(pictures, plan_for):
    folder = pictures(squares=3)
    raised = plan_for(dataset(folder), batch_size=7, oversubscribe=True)
    assert raised.fingerprint() == plan_for(dataset(folder, repeats=2), batch_size=7).fingerprint()
    assert raised.fingerprint() != plan_for(dataset(folder, repeats=3), batch_size=7).fingerprint()


def test_one_picture_and_batches_of_four(pictures, plan_for):
    folder = pictures(squares=1)
    assert refusal(plan_for, dataset(folder)).splitlines() == [
        f"no images detected in data set 'pictures' ({folder}): none of its 1 can be trained on",
        "  with train_batch_size 4, repeats 0",
        "  - pictures: 1 image: its bucket 64x64 gives 1 sample per epoch, fewer than train_batch_size 4 "
        "(pictures/square_0.png)",
        "    -> set repeats to 3 or more, train_batch_size to 1, or disable_bucket_pruning to true",
    ]
    assert batches_per_epoch(plan_for(dataset(folder, repeats=3))) == 1


def test_repeats_are_named_for_a_whole_optimizer_step_too(pictures, plan_for):
    folder = pictures(squares=1)
    text = refusal(plan_for, dataset(folder), accumulation=4)
    assert "  with train_batch_size 4, gradient_accumulation_steps 4, repeats 0\n" in text
    assert (
        "    -> set repeats to 3 or more (15 or more for all 16 samples of an optimizer step), train_batch_size to 1, "
        "or disable_bucket_pruning to true" in text
    )
    assert steps_per_epoch(plan_for(dataset(folder, repeats=15), accumulation=4)) == 1
    with pytest.raises(DatasetError) as caught:
        plan_for(dataset(folder), accumulation=2, processes=2)
    text = str(caught.value)
    assert "  with train_batch_size 4, gradient_accumulation_steps 2, num_processes 2, repeats 0\n" in text
    assert "15 or more for all 16 samples of an optimizer step" in text
    assert steps_per_epoch(plan_for(dataset(folder, repeats=15), accumulation=2, processes=2)) == 1


def test_the_filters_in_force_are_named(pictures, plan_for):
    settings = {"minimum_image_size": 70, "minimum_aspect_ratio": 0.5, "maximum_aspect_ratio": 1.2, "repeats": 2}
    text = refusal(plan_for, dataset(pictures(squares=2, wides=3), **settings))
    assert (
        "  with train_batch_size 4, repeats 2, minimum_image_size 70 (pixel_area), minimum_aspect_ratio 0.5, "
        "maximum_aspect_ratio 1.2\n" in text
    )
    assert "2 images: is smaller than minimum_image_size 70 (pixel_area)" in text
    assert "3 images: has an aspect ratio (width / height) above maximum_aspect_ratio 1.2" in text
