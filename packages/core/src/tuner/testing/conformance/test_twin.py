"""The twin is the same wherever and whenever it is made."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import torch

from tuner.testing.family import FamilyUnderTest


def test_twin_is_deterministic(family: FamilyUnderTest, tmp_path: Path) -> None:
    """The same call writes the same bytes, whatever state the global generators are in, and leaves that state."""
    digests = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            assert family.hooks.make_twin(folder=folder) == folder
        digests.append(_digests(folder))
    assert digests[0], "make_twin wrote no file"
    unequal = [name for name in digests[0].keys() | digests[1].keys() if digests[0].get(name) != digests[1].get(name)]
    assert not unequal, f"two calls wrote different bytes in {sorted(unequal)}"


def test_twin_has_no_pickles(family: FamilyUnderTest) -> None:
    """Weights are safetensors."""
    unsafe = [path.name for path in family.twin.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]
    assert not unsafe


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
