from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tuner.types import ComponentRequest, Components
from tuner_auraflow import plugin
from tuner_auraflow.facts import AuraFlowOptions

PARTS = frozenset({"text_encoders", "codec", "denoiser", "scheduler"})


@pytest.fixture(scope="session")
def auraflow_twin(tmp_path_factory) -> Path:
    return plugin.make_twin(tmp_path_factory.mktemp("auraflow") / "twin")


@pytest.fixture
def load_auraflow(auraflow_twin) -> Callable[..., Components]:
    def load(parts=PARTS, folder=auraflow_twin, dtype=torch.float32, **more) -> Components:
        options = more.pop("options", AuraFlowOptions())
        return plugin.load_components(
            ComponentRequest(folder, frozenset(parts), dtype, torch.device("cpu"), options, **more)
        )

    return load


@pytest.fixture
def auraflow(load_auraflow) -> Components:
    return load_auraflow()
