"""Compiling the denoiser's blocks, one by one: torch.compile makes one program of many small kernels.

Blocks are alike, so each kind of them is compiled once for each shape, where a whole network takes minutes. A block
stays the module that it is: no name changes, in no file. Shapes are never generalised, so that what a block computes
depends on its input alone and not on the batches before; a resumed run computes what the uninterrupted one does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from tuner.config import RunConfig
from tuner.config.compiling import picture_backend, training_backend
from tuner.errors import TunerError
from tuner.training.blocks import repeated_blocks

PROGRAMS = 4096
"""Most programs of one block: one for each shape, with and without gradients, in training and for pictures."""


def check_compiling(config: RunConfig, device: torch.device) -> None:
    """Make sure that what is compiled can be compiled on this machine, before anything is loaded.

    Raises:
        TunerError: The compiler that inductor needs is not there.
    """
    wanted = {
        "dynamo_backend": training_backend(config.launch),
        "validation_torch_compile": picture_backend(config.launch, config.validation),
    }
    for key, backend in wanted.items():
        if backend == "inductor" and (missing := _missing_compiler(device)):
            raise TunerError(f"{key}: inductor needs {missing}\n    -> install it, or turn {key} off")
    optimisation = config.optimisation
    if optimisation.optimizer_spec.compiles and (missing := _missing_compiler(device)):
        raise TunerError(
            f"optimizer: {optimisation.optimizer} compiles its step, for which inductor needs {missing}\n"
            "    -> install it, or use another optimizer, such as bnb-adamw8bit"
        )


def compile_blocks(denoiser: nn.Module, backend: str, title: str) -> None:
    """Let each block be compiled when it is first called, and again for other shapes.

    Args:
        denoiser: The network, adapter applied.
        backend: inductor, or another name that torch knows.
        title: The family's name for people.

    Raises:
        TunerError: The network has no list of blocks.
    """
    blocks = repeated_blocks(denoiser)
    if not blocks:
        raise TunerError(f"dynamo_backend: {title} has no repeated blocks to compile\n    -> set it to no")
    _allow_many_programs()
    for block in blocks:
        block.compile(backend=backend, dynamic=False)


@contextmanager
def compiled_by(denoiser: nn.Module, backend: str | None) -> Iterator[None]:
    """Let the blocks be compiled by a backend inside the block, or run as they are; then as before."""
    live: list[tuple[Any, Any]] = [(block, block._compiled_call_impl) for block in repeated_blocks(denoiser)]
    try:
        for block, _ in live:
            block._compiled_call_impl = None
            if backend is not None:
                _allow_many_programs()
                block.compile(backend=backend, dynamic=False)
        yield
    finally:
        for block, call in live:
            block._compiled_call_impl = call


def _allow_many_programs() -> None:
    """Let nothing fall back to uncompiled blocks in silence, as torch does after eight programs of one block."""
    import torch._dynamo  # slow to import, and few runs need it

    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, PROGRAMS)
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, PROGRAMS)
    settings.fail_on_recompile_limit_hit = True


def _missing_compiler(device: torch.device) -> str | None:
    """Say what inductor lacks to make programs for a device; None if nothing."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "the package triton, which is not installed"
        # Triton compiles what launches its kernels.
        found = any(map(shutil.which, ("cc", "gcc", "clang")))
        return None if found else "a C compiler such as gcc, and there is none"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return "a C++ compiler such as g++ (the variable CXX names another one), and there is none"
    return None
