"""Random draws as pure functions of (seed, purpose, step, sample).

Nothing here has state: a draw does not depend on what was drawn before it, on the batch a sample stands in,
or on the process that makes it. That is what makes a resumed run equal to one that was never stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def derive_key(seed: int, purpose: str, step: int = 0, sample: str = "") -> int:
    """Return the 128-bit key of a draw.

    The fields are length-prefixed before hashing, so no two different tuples share an encoding.
    """
    fields = (str(seed), purpose, str(step), sample)
    data = b"".join(len(raw).to_bytes(8, "little") + raw for raw in (field.encode() for field in fields))
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "little")


def generator(seed: int, purpose: str, step: int = 0, sample: str = "") -> np.random.Generator:
    """Return a fresh counter-based generator (Philox 4x64) for one draw."""
    return np.random.Generator(np.random.Philox(key=derive_key(seed, purpose, step, sample)))


def normal_tensor(shape: Sequence[int], seed: int, purpose: str, step: int = 0, sample: str = "") -> Tensor:
    """Draw a float32 tensor of independent standard normal values, on the CPU."""
    import torch

    return torch.from_numpy(generator(seed, purpose, step, sample).standard_normal(tuple(shape), dtype=np.float32))


@contextmanager
def seeded_torch(seed: int, purpose: str, step: int = 0, sample: str = "") -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it: the CPU's and the current device's.

    For library code that can only read a global generator, such as the initialisation of an adapter or dropout.
    """
    import torch

    # Left to itself, it would wait for every device that it can see, those of other processes too.
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive_key(seed, purpose, step, sample) & (2**63 - 1))
        yield
