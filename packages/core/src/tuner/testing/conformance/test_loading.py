"""`load_components` loads what was asked for, ready to use, and the pipeline works on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tuner.testing.family import PARTS, FamilyUnderTest
from tuner.types import Components, Part


@pytest.mark.parametrize("part", PARTS)
def test_only_the_part_asked_for_is_loaded(family: FamilyUnderTest, part: Part) -> None:
    """Caching must not pay for the denoiser, nor training for the encoders."""
    if part == "text_encoders" and not family.facts.part_folders.get(part):
        loaded = _loaded(family.load(part))
        assert loaded <= {part}, f"asked for {part}, loaded {sorted(loaded)}"
        return
    assert _loaded(family.load(part)) == {part}


def test_parts_come_frozen_and_in_evaluation_mode(family: FamilyUnderTest) -> None:
    """What is loaded computes deterministically and costs no gradients until the core says otherwise."""
    for name, module in _modules(family.load(*PARTS)).items():
        assert not any(child.training for child in module.modules()), f"{name} is in training mode"
        assert not any(parameter.requires_grad for parameter in module.parameters()), f"{name} requires gradients"


def test_parts_have_the_dtypes_asked_for(family: FamilyUnderTest) -> None:
    """Every part has its own dtype."""
    request = replace(family.request("denoiser", "codec"), dtype=torch.bfloat16, dtypes={"codec": torch.float32})
    components = family.hooks.load_components(request=request)
    assert components.denoiser.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in components.codec.module.parameters()} == {torch.float32}


def test_pipeline_holds_the_live_denoiser(family: FamilyUnderTest) -> None:
    """Validation pictures show the weights that train, not a copy of what they were."""
    held = [id(part) for part in family.sampler().pipeline.components.values()]
    assert id(family.components.denoiser) in held, "no component of the pipeline is components.denoiser"


def _loaded(components: Components) -> set[Part]:
    found: dict[Part, bool] = {
        "text_encoders": bool(components.text_encoders or components.tokenizers),
        "codec": components.codec is not None,
        "denoiser": components.denoiser is not None,
        "scheduler": components.scheduler is not None,
    }
    return {part for part, present in found.items() if present}


def _modules(components: Components) -> dict[str, nn.Module]:
    modules = dict(components.text_encoders)
    if components.denoiser is not None:
        modules["denoiser"] = components.denoiser
    if components.codec is not None:
        modules["codec"] = components.codec.module
    return modules
