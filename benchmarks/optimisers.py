"""Every optimizer by name against torch's AdamW: time of a step, and bytes of state per parameter.

    python benchmarks/optimisers.py [--millions 8] [--rounds 9] [--dtypes float32 bfloat16] [--output FILE]

Both step their own copies of the same weights, in turns and in changing order, within a process per optimizer. On an
accelerator a turn is ten steps, on a CPU one. The gradients are made beforehand.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from report import machine, measure_in_child, run_children

REFERENCE = "torch.optim.AdamW"
SIDE = 1024
"""Each weight is a square of this side."""


def main() -> None:
    """Measure every optimizer, and print and write the table."""
    from tuner.config.optimizers import OPTIMIZERS

    parser = argparse.ArgumentParser(description="Optimizers against torch's AdamW.")
    parser.add_argument("--millions", type=int, default=8, help="parameters, in millions (default: 8)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    lines = [
        "# Optimizers against torch's AdamW",
        "",
        f"{datetime.now(timezone.utc):%Y-%m-%d}, `python {' '.join(sys.argv)}`",
        "",
        f"{options.millions} weights of {SIDE} x {SIDE}, a step over all of them; state in bytes per parameter.",
        "",
        "| optimizer | weights | step | AdamW's | ratio of medians | middle half of rounds | state | AdamW's | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for dtype in options.dtypes:
        for name in (*OPTIMIZERS, f"{REFERENCE} released", "optimi-adamw released"):
            found = measure_in_child(__file__, "compare", name, dtype, str(options.millions), str(options.rounds))
            lines.append(_row(name, dtype, found))
    text = "\n".join([*lines, "", machine()]) + "\n"
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")


def _row(name: str, dtype: str, found: dict[str, Any]) -> str:
    times, state = found["seconds"], found["bytes"]
    mine, other = statistics.median(times["product"]), statistics.median(times["bare"])
    quarters = statistics.quantiles([a / b for a, b in zip(times["product"], times["bare"], strict=True)], n=4)
    return (
        f"| {name} | {dtype} | {mine * 1000:.1f} ms | {other * 1000:.1f} ms | {mine / other:.2f} "
        f"| {quarters[0]:.2f} to {quarters[2]:.2f} | {state['product']:.2f} | {state['bare']:.2f} "
        f"| {state['product'] / state['bare']:.2f} |"
    )


def child_compare(name: str, dtype: str, millions: str, rounds: str) -> dict[str, Any]:
    """Time an optimizer and AdamW in turns; seconds per step, round by round, and bytes of state per parameter."""
    plain, _, released = name.partition(" ")
    sides = {
        "product": _Side(plain, dtype, int(millions), bool(released)),
        "bare": _Side(REFERENCE, dtype, int(millions), False),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(int(rounds) + 2):
        for side in sorted(sides, reverse=bool(turn % 2)):
            took = sides[side].turn()
            if turn > 1:  # the first ones warm up, and some compile
                seconds[side].append(took)
    return {"seconds": seconds, "bytes": {side: subject.state_bytes() for side, subject in sides.items()}}


class _Side:
    """An optimizer with weights of its own."""

    def __init__(self, name: str, dtype: str, millions: int, released: bool) -> None:
        import torch

        from tuner.optim.optimizers import create_optimizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = torch.Generator().manual_seed(0)
        made = [torch.randn(SIDE, SIDE, generator=generator).to(device, getattr(torch, dtype)) for _ in range(millions)]
        named = [(f"weight{index}", torch.nn.Parameter(weight)) for index, weight in enumerate(made)]
        self._weights = [parameter for _, parameter in named]
        self._gradients = [torch.randn_like(weight) * 1e-2 for weight in self._weights]
        self._released = released
        self._optimizer = create_optimizer(name, named, 1e-4, getattr(torch, dtype), release=released)
        self._steps = 10 if device == "cuda" else 1

    def turn(self) -> float:
        """Take the steps of a turn; seconds for each."""
        import torch

        synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        synchronise()
        begin = time.perf_counter()
        for _ in range(self._steps):
            if self._released:
                torch.autograd.backward(self._weights, self._gradients)
            else:
                for weight, gradient in zip(self._weights, self._gradients, strict=True):
                    weight.grad = gradient
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        synchronise()
        return (time.perf_counter() - begin) / self._steps

    def state_bytes(self) -> float:
        """Bytes of all tensors of the state, per parameter."""
        from tuner.optim.state import optimizer_state

        tensors, _ = optimizer_state(self._optimizer)
        distinct = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors.values()}
        return sum(distinct.values()) / sum(weight.numel() for weight in self._weights)


if __name__ == "__main__":
    run_children({"compare": child_compare}) or main()
