"""The order of batches, and the report."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from tuner.data.order import (
    batches_per_epoch,
    epoch_at,
    micro_batch,
    samples_before,
    sampling_weights,
    steps_per_epoch,
)
from tuner.data.plan import Bucket, DatasetTotals, Plan, Unused
from tuner.data.report import format_plan, plan_as_json
from tuner.data.sample import Geometry, Sample


def bucket(dataset, size, count, repeats=0, batch_size=2):
    geometry = Geometry(size, (0, 0, *size))
    samples = tuple(
        Sample(f"{dataset}/{size[0]}_{n}.png", dataset, f"{n}.png", ("a caption",), geometry) for n in range(count)
    )
    return Bucket(dataset, size, round(size[0] / size[1], 2), samples, repeats, batch_size)


def make_plan(batch_size=2, accumulation=1):
    buckets = (
        bucket("a", (64, 64), 5, 2, batch_size),
        bucket("a", (96, 64), 3, 0, batch_size),
        bucket("b", (64, 64), 2, 0, batch_size),
    )
    return Plan(buckets, (), (), batch_size, accumulation)


def keys(plan, seed, epoch):
    count = batches_per_epoch(plan)
    return [[draw.key for draw in micro_batch(plan, seed, epoch * count + index)] for index in range(count)]


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "batches", "steps"),
    [
        (2, 1, 11, 11),
        (2, 2, 11, 6),
        (2, 4, 11, 3),
        (2, 8, 11, 2),
        (1, 20, 20, 1),
        (1, 21, 20, 1),
        (100, 1, 3, 3),
    ],
)
def test_batches_and_steps_per_epoch(batch_size, accumulation, batches, steps):
    plan = make_plan(batch_size, accumulation)
    assert batches_per_epoch(plan) == batches
    assert steps_per_epoch(plan) == steps


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_every_repeat_of_every_sample_comes_exactly_once_per_epoch(batch_size):
    plan = make_plan(batch_size)
    expected = {f"{s.key}#{r}" for b in plan.buckets for s in b.samples for r in range(b.repeats + 1)}
    for epoch in range(3):
        drawn = [key for batch in keys(plan, 1, epoch) for key in batch]
        assert len(drawn) == 20
        assert set(drawn) == expected


def test_a_batch_is_of_one_bucket_and_only_the_last_of_a_bucket_is_short():
    plan = make_plan(batch_size=2)
    lengths = Counter()
    for index in range(batches_per_epoch(plan)):
        batch = micro_batch(plan, 1, index)
        assert len({(draw.sample.dataset, draw.sample.geometry.size) for draw in batch}) == 1
        lengths[batch[0].sample.dataset, batch[0].sample.geometry.size, len(batch)] += 1
    assert lengths == {
        ("a", (64, 64), 2): 7,
        ("a", (64, 64), 1): 1,
        ("a", (96, 64), 2): 1,
        ("a", (96, 64), 1): 1,
        ("b", (64, 64), 2): 1,
    }


def test_an_epochs_order_does_not_depend_on_what_was_asked_before():
    straight = make_plan()
    in_order = [keys(straight, 1, epoch) for epoch in range(4)]
    assert keys(make_plan(), 1, 3) == in_order[3]
    backwards = make_plan()
    assert [keys(backwards, 1, epoch) for epoch in (3, 2, 1, 0)] == in_order[::-1]
    assert len(backwards.orders) == 2


def test_order_differs_between_epochs_and_seeds():
    plan = make_plan()
    orders = [str(keys(plan, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_the_order_within_a_bucket_does_not_depend_on_the_other_buckets():
    def drawn(plan):
        wanted = [batch for batch in keys(plan, 1, 0) if batch[0].startswith("a/64")]
        return sorted(wanted)

    whole = make_plan()
    assert drawn(Plan(whole.buckets[:1], (), (), 2)) == drawn(whole)


def test_the_order_is_the_same_tomorrow():
    plan = Plan((bucket("a", (64, 64), 3, repeats=1),), (), (), 2)
    assert keys(plan, 42, 0) == [
        ["a/64_2.png#1", "a/64_1.png#1"],
        ["a/64_1.png#0", "a/64_0.png#0"],
        ["a/64_2.png#0", "a/64_0.png#1"],
    ]


@pytest.fixture
def reported():
    unused = [Unused("b", f"b/{n}.png", "is empty (0 bytes)", "replace it") for n in range(4)]
    totals = (DatasetTotals("a", 8, 8, {}), DatasetTotals("b", 6, 2, {".txt": 2, "": 1}))
    return Plan(make_plan().buckets, tuple(unused), totals, 2, 4)


def test_the_report(reported):
    assert format_plan(reported).splitlines() == [
        "data set  bucket  aspect  images  repeats  samples  batch  batches",
        "a          64x64       1       5        2       15      2        8",
        "a          96x64     1.5       3        0        3      2        2",
        "b          64x64       1       2        0        2      2        1",
        "",
        "total: 10 images, 20 samples per epoch, 11 batches of 2, 3 optimizer steps of 4 batches",
        "b: files that are no pictures: 2 .txt, 1 without suffix",
        "",
        "not used: 4 images",
        "  - b: 4 images: is empty (0 bytes) (b/0.png, b/1.png, b/2.png, ...)",
        "    -> replace it",
    ]


def test_the_report_as_json(reported):
    report = json.loads(json.dumps(plan_as_json(reported)))
    assert report["batches_per_epoch"] == 11
    assert report["steps_per_epoch"] == 3
    assert report["buckets"][0] == {
        "dataset": "a", "width": 64, "height": 64, "aspect": 1.0, "images": 5, "repeats": 2, "samples": 15,
        "train_batch_size": 2, "batches": 8,
    }  # fmt: skip
    assert report["datasets"][1] == {"id": "b", "found": 6, "used": 2, "other_files": {".txt": 2, "": 1}}
    assert report["unused"][0] == {"image": "b/0.png", "reason": "is empty (0 bytes)", "remedy": "replace it"}


def weighted(weights, batch_size=1):
    plan = make_plan(batch_size)
    return Plan(plan.buckets, (), (), batch_size, weights=weights)


def picked(plan, seed, count):
    return [micro_batch(plan, seed, index)[0] for index in range(count)]


def test_weights_decide_how_often_a_data_set_is_drawn_from():
    draws = picked(weighted((("a", 0.9), ("b", 0.1))), 3, 1000)
    share = sum(draw.sample.dataset == "a" for draw in draws) / 1000
    assert abs(share - 0.9) < 4 * (0.9 * 0.1 / 1000) ** 0.5  # four standard deviations


def test_a_weighted_data_set_still_gives_each_sample_once_per_epoch_of_its_own():
    plan = weighted((("a", 0.7), ("b", 0.3)))
    own = [draw for draw in picked(plan, 5, 3000) if draw.sample.dataset == "a"]
    size = 5 * 3 + 3
    for epoch in range(len(own) // size):
        chunk = own[epoch * size : (epoch + 1) * size]
        assert {draw.epoch for draw in chunk} == {epoch}
        assert len({draw.key for draw in chunk}) == size


def test_a_weighted_draw_is_a_function_of_its_position():
    weights = (("a", 0.5), ("b", 0.5))
    forwards = picked(weighted(weights), 1, 9000)
    fresh = weighted(weights)
    for index in (8999, 0, 4096, 4095, 5000):
        assert micro_batch(fresh, 1, index)[0].name == forwards[index].name
    assert epoch_at(fresh, 1, 9000, "b") == sum(draw.sample.dataset == "b" for draw in forwards) // 2


@pytest.mark.parametrize(
    ("probabilities", "by_size", "expected"),
    [
        ({"a": 1.0, "b": 1.0}, True, ()),
        ({"a": 0.5, "b": 0.5}, True, ()),
        ({"a": 1.0, "b": 9.0}, True, (("a", 0.5), ("b", 0.5))),  # 18 and 2 batches of 1
        ({"a": 1.0, "b": 1.0}, False, (("a", 0.5), ("b", 0.5))),
        ({"a": 3.0, "b": 1.0}, False, (("a", 0.75), ("b", 0.25))),
        ({"a": 1.0, "b": 0.0}, True, (("a", 1.0),)),
    ],
)
def test_weights_are_probability_times_size_or_probability_alone(probabilities, by_size, expected):
    assert sampling_weights(probabilities, make_plan(1).buckets, by_size=by_size) == expected


def test_weights_are_part_of_a_plans_identity():
    plain, other = make_plan(1), weighted((("a", 0.5), ("b", 0.5)))
    assert plain.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("weights", [(), (("a", 0.7), ("b", 0.3))])
def test_samples_are_counted_without_drawing_them(weights):
    plan = replace(make_plan(), weights=weights)
    counted = 0
    for index in range(200):
        assert samples_before(plan, 3, index) == counted
        counted += len(micro_batch(plan, 3, index))
