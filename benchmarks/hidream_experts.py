"""HiDream's experts in training: the loop of diffusers against tokens sorted by expert.

The loop picks each expert's tokens with a mask, twice per expert, from a copy of the input that holds every token once
for each of its experts. Sorting reads the slots in the order of their experts: one gather, one contiguous slice per
expert, one gather back. Both run the same expert modules, so that adapters stay where they are.

    python benchmarks/hidream_experts.py [--width 640 1280] [--tokens 1024] [--rounds 7] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import Tensor

Forward = Callable[[MOEFeedForwardSwiGLU, Tensor], Tensor]


def loop(mixture: MOEFeedForwardSwiGLU, x_BSD: Tensor) -> Tensor:
    """What diffusers does in training mode."""
    return mixture(x_BSD)


def sort(mixture: MOEFeedForwardSwiGLU, x_BSD: Tensor) -> Tensor:
    """The same mathematics on tokens sorted by expert."""
    chosen_NK, weight_NK, _ = mixture.gate(x_BSD)
    x_ND = x_BSD.view(-1, x_BSD.shape[-1])
    experts = chosen_NK.view(-1)
    order = experts.argsort(stable=True)
    counts = experts.bincount(minlength=len(mixture.experts)).tolist()
    slices = x_ND[order // chosen_NK.shape[1]].split(counts)
    sorted_y = torch.cat([expert(tokens) for expert, tokens in zip(mixture.experts, slices, strict=True)])
    y_NKD = sorted_y[order.argsort()].view(*chosen_NK.shape, -1)
    return (y_NKD * weight_NK.unsqueeze(-1)).sum(dim=1).view_as(x_BSD) + mixture.shared_experts(x_BSD)


def step(forward: Forward, mixture: MOEFeedForwardSwiGLU, x_BSD: Tensor) -> tuple[float, list[Tensor]]:
    """Return the seconds of forward and backward, and output and gradients."""
    x_BSD = x_BSD.clone().requires_grad_(True)
    mixture.zero_grad()
    start = time.perf_counter()
    y = forward(mixture, x_BSD)
    y.square().mean().backward()
    seconds = time.perf_counter() - start
    gradients = [weight.grad for weight in mixture.parameters() if weight.grad is not None]
    return seconds, [y.detach(), x_BSD.grad, *gradients]


def compare(width: int, tokens: int, rounds: int, frozen: bool) -> dict[str, object]:
    """Measure both in turns on one mixture of HiDream's proportions, and how far they differ."""
    torch.manual_seed(0)
    mixture = MOEFeedForwardSwiGLU(width, 4 * width, num_routed_experts=4, num_activated_experts=2).train()
    mixture.gate.alpha = 0.0
    mixture.requires_grad_(not frozen)
    x = torch.randn(1, tokens, width)
    seconds: dict[str, list[float]] = {"loop": [], "sort": []}
    results: dict[str, list[Tensor]] = {}
    for turn in range(rounds + 1):
        for name, forward in (("loop", loop), ("sort", sort)):
            took, results[name] = step(forward, mixture, x)
            if turn:  # the first one warms up
                seconds[name].append(took)
    error = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(results["sort"], results["loop"], strict=True)
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds["sort"], seconds["loop"], strict=True))
    return {
        "width": width,
        "tokens": tokens,
        "frozen": frozen,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "loop_seconds": round(medians["loop"], 4),
        "sort_seconds": round(medians["sort"], 4),
        "sort_over_loop": round(ratio, 3),
        "largest_relative_difference": error,
    }


def main() -> None:
    """Measure with trained and with frozen experts, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--width", type=int, nargs="+", default=[640], help="of the network; the published one has 2560"
    )
    parser.add_argument("--tokens", type=int, default=1024, help="tokens in a batch; 1024 px have 4096")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    rows = [
        compare(width, arguments.tokens, arguments.rounds, frozen)
        for width in arguments.width
        for frozen in (False, True)
    ]
    text = json.dumps(rows, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
