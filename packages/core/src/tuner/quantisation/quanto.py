"""Weights stored by optimum-quanto: the layer stays a `torch.nn.Linear`, its weight becomes one of quanto's tensors."""

from __future__ import annotations

import functools
from pathlib import Path

from filelock import FileLock, Timeout
from optimum.quanto import QLinear, qtypes
from optimum.quanto.library.extensions.extension import get_extension
from torch import Tensor, nn

from tuner.quantisation.sizes import tensor_bytes


def store(layer: nn.Linear, form: str) -> nn.Linear:
    """Quantise a layer's weight in place, row by row or in groups of quanto's own choice."""
    unblock_compiling()
    quantised = QLinear.from_module(layer, weights=qtypes[form])
    quantised.freeze()
    layer.weight = quantised.weight.requires_grad_(False)
    layer.register_forward_pre_hook(_contiguous)
    return layer


@functools.cache
def unblock_compiling() -> FileLock | None:
    """Remove what a killed process has left of compiling quanto's kernels, unless another one may be compiling now.

    quanto compiles at the first use, behind a file that says that somebody does; everybody waits for ever for one whose
    process is gone. The lock that is returned is held as long as this process lives, however it ends.
    """
    build = Path(get_extension("quanto_cpp").build_directory)
    lock = FileLock(build.with_name("in_use.lock"), timeout=0)
    try:
        lock.acquire()
        (build / "lock").unlink(missing_ok=True)
    except (Timeout, OSError):  # in use, or a folder that nobody can compile in
        return None
    return lock


def _contiguous(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    # The kernel for int8 and bfloat16 on the CPU takes nothing else.
    return (inputs[0].contiguous(),)


def dequantised(layer: nn.Linear) -> Tensor:
    """Return the weight that a stored layer computes with, shape (out_features, in_features)."""
    return layer.weight.dequantize()


def stored_bytes(layer: nn.Linear) -> int:
    """Return the size of a stored layer's weight."""
    return tensor_bytes(layer.weight)
