"""The twin is the same wherever and whenever it is made, and the data sheet fits it."""

from __future__ import annotations

import fnmatch
import hashlib
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tuner.testing.family import FamilyUnderTest
from tuner.types import Part


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


def test_every_part_has_its_folders_in_the_twin(family: FamilyUnderTest) -> None:
    """`part_folders` names the folders that the parts are read from, as the twin has them."""
    folders = family.facts.part_folders.values()
    absent = [name for names in folders for name in names if not (family.twin / name).is_dir()]
    assert not absent, f"the twin has no folder {absent}"
    assert (family.twin / "model_index.json").is_file()


def test_adapter_targets_and_class_aliases_match_the_denoiser(family: FamilyUnderTest) -> None:
    """Names that adapters are put on exist in the network, so that none of them silently does nothing."""
    denoiser = family.components.denoiser
    assert denoiser is not None
    names = [name for name, _ in denoiser.named_modules()]
    targets = family.facts.adapter_targets
    assert targets
    unmatched = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    assert not unmatched, f"adapter_targets match no layer: {unmatched}"
    classes = {type(module).__name__ for module in denoiser.modules()}
    unknown = {name for known in family.facts.class_aliases.values() for name in known} - classes
    assert not unknown, f"class_aliases name classes that the denoiser does not have: {sorted(unknown)}"


def test_layers_that_are_never_quantised_exist(family: FamilyUnderTest) -> None:
    """Every pattern of `skip_layers` names a layer, so that none of them silently protects nothing."""
    policy = family.hooks.quantisation_policy(options=family.facts.options())
    components = family.components
    modules: dict[Part, list[nn.Module | None]] = {
        "denoiser": [components.denoiser],
        "text_encoders": list(components.text_encoders.values()),
        "codec": [components.codec.module if components.codec else None],
    }
    for part, rules in policy.parts.items():
        names = [name for module in modules.get(part, []) if module is not None for name, _ in module.named_modules()]
        idle = [pattern for pattern in rules.skip_layers if not fnmatch.filter(names, pattern)]
        assert not idle, f"skip_layers of the {part} match nothing: {idle}"


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
