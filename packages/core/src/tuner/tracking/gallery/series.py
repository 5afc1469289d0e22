"""Metrics of many steps as columns, thinned so that a page can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MOST_ROWS = 20_000
"""Rows that a page holds; more of them are thinned."""


def rounded(value: float) -> float | None:
    """Return a number to six digits, or None where it is not finite, which JSON cannot say."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def row_of(step: int, values: Mapping[str, Any]) -> dict[str, float | None]:
    """Return a row of `columns_of`: the step, and what of `values` is a number."""
    numbers = {
        name: rounded(float(value))
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "step"
    }
    return {"step": step, **numbers}


def columns_of(rows: Sequence[Mapping[str, float | None]], most: int = MOST_ROWS) -> dict[str, Any]:
    """Turn rows into columns of equal length.

    Args:
        rows: In the order of their steps, each with a "step".
        most: Rows of the result at most. Where there are more, each stretch of rows becomes two that hold the least
            and the greatest value of every column, in the order in which they came, so that no peak is lost.

    Returns:
        "steps": the steps, and "columns": name -> values, None where a row has none.
    """
    if len(rows) > most:
        stretch = math.ceil(2 * len(rows) / most)
        rows = [row for start in range(0, len(rows), stretch) for row in _extremes(rows[start : start + stretch])]
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {"steps": [row["step"] for row in rows], "columns": columns}


def _extremes(rows: Sequence[Mapping[str, float | None]]) -> list[Mapping[str, float | None]]:
    if len(rows) == 1:
        return list(rows)
    first: dict[str, float | None] = {"step": rows[0]["step"]}
    last: dict[str, float | None] = {"step": rows[-1]["step"]}
    for name in dict.fromkeys(name for row in rows for name in row if name != "step"):
        values = [value for row in rows if (value := row.get(name)) is not None]
        if values:
            low, high = min(values), max(values)
            first[name], last[name] = (low, high) if values.index(low) <= values.index(high) else (high, low)
    return [first, last]
