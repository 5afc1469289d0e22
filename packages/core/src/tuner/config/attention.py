"""The attention kernels that `attention_mechanism` names, and what each needs. Imports no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.util import find_spec

DIFFUSERS = "diffusers"
"""Leaves the choice to diffusers."""


@dataclass(frozen=True)
class AttentionKernel:
    """A kernel that training can use.

    Attributes:
        backend: Its name in diffusers' attention dispatcher.
        package: Import name of the package that it comes in; None for torch's own.
        cuda: Whether it needs a CUDA device.
        bf16: Whether it takes no float32.
    """

    backend: str
    package: str | None = None
    cuda: bool = True
    bf16: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return self.package is None or find_spec(self.package) is not None


KERNELS = {
    "native": AttentionKernel("native", cuda=False),
    "native-math": AttentionKernel("_native_math", cuda=False),
    "native-efficient": AttentionKernel("_native_efficient"),
    "native-flash": AttentionKernel("_native_flash", bf16=True),
    "native-cudnn": AttentionKernel("_native_cudnn", bf16=True),
    "flash-attn-2": AttentionKernel("flash", "flash_attn", bf16=True),
    "flash-attn-3": AttentionKernel("_flash_3", "flash_attn_3", bf16=True),
    "xformers": AttentionKernel("xformers", "xformers"),
}
"""Kernel by the name that people write."""


def checked_name(value: str) -> str:
    """Return the name of a kernel in lower case.

    Raises ValueError on a name that is unknown or a kernel that cannot train.
    """
    name = value.lower()
    if name.startswith("sage"):
        raise ValueError(
            f"{value!r} computes no gradients, so layers before it would learn nothing; write {DIFFUSERS}, "
            "or native-flash for a fast kernel"
        )
    names = (DIFFUSERS, *KERNELS)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{value!r} is no attention kernel{hint} (one of: {', '.join(names)})")
    return name
