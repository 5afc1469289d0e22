"""Steps that are made in a thread, one ahead of their use."""

import threading

import pytest

from tuner.training.feeding import one_ahead

LONG = 60.0
"""Seconds that only a test which fails waits for."""


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("last", [3, 4, 5, 9])
def test_each_is_made_once_and_in_order(last):
    made = []
    assert list(one_ahead(lambda number: made.append(number) or number * 10, 3, last)) == [
        number * 10 for number in range(3, last)
    ]
    assert made == list(range(3, last))


def test_the_next_one_is_made_while_one_is_in_use_and_no_other():
    made = {number: threading.Event() for number in range(4)}

    def make(number: int) -> int:
        made[number].set()
        return number

    feed = one_ahead(make, 0, 4)
    for number in range(3):
        assert next(feed) == number
        assert made[number + 1].wait(LONG)
        assert all(not made[later].is_set() for later in range(number + 2, 4))
    assert list(feed) == [3]
    assert not names()


def test_an_error_comes_when_its_turn_does_and_nothing_is_made_after_it():
    made = []

    def make(number: int) -> int:
        made.append(number)
        if number == 1:
            raise ValueError("the second")
        return number

    feed = one_ahead(make, 0, 4)
    assert next(feed) == 0
    with pytest.raises(ValueError, match="the second"):
        next(feed)
    assert made == [0, 1]
    assert not names()


def test_whoever_stops_early_waits_for_the_thread():
    made, go_on = [], threading.Event()

    def make(number: int) -> int:
        assert number == 0 or go_on.wait(LONG)
        made.append(number)
        return number

    feed = one_ahead(make, 0, 9)
    assert next(feed) == 0
    closing = threading.Thread(target=feed.close)
    closing.start()
    go_on.set()
    closing.join()
    assert made == [0, 1]
    assert not names()
