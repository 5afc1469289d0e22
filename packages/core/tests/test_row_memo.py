"""The memo of rows that batches are made of."""

import torch

from tuner.training.row_memo import RowMemo


def row(value: float) -> dict[str, torch.Tensor]:
    return {"row": torch.full((4,), value)}  # 16 bytes


def test_rows_are_read_once_and_the_least_recently_used_goes_first():
    reads: list[str] = []

    def get(memo: RowMemo, key: str) -> float:
        return float(memo.get(key, lambda: reads.append(key) or row(float(ord(key))))["row"][0])

    memo = RowMemo(limit=32)
    assert [get(memo, key) for key in "abab"] == [97, 98, 97, 98]
    assert reads == ["a", "b"]
    get(memo, "a")
    get(memo, "c")  # no room for three: b was used least recently
    get(memo, "a")
    assert reads == ["a", "b", "c"]
    get(memo, "b")
    assert reads == ["a", "b", "c", "b"]


def test_a_row_beyond_the_limit_is_still_given():
    memo = RowMemo(limit=8)
    assert memo.get("big", lambda: row(1.0))["row"].sum() == 4.0
    assert memo.get("big", lambda: row(2.0))["row"].sum() == 8.0
