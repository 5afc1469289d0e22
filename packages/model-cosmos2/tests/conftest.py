from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tuner.types import ComponentRequest, Components
from tuner_cosmos2 import plugin
from tuner_cosmos2.facts import Cosmos2Options

PARTS = frozenset({"text_encoders", "codec", "denoiser", "scheduler"})


@pytest.fixture(scope="session")
def cosmos2_twin(tmp_path_factory) -> Path:
    return plugin.make_twin(tmp_path_factory.mktemp("cosmos2") / "twin")


@pytest.fixture
def load_cosmos2(cosmos2_twin) -> Callable[..., Components]:
    def load(parts=PARTS, folder=cosmos2_twin, dtype=torch.float32, **more) -> Components:
        options = more.pop("options", Cosmos2Options())
        return plugin.load_components(
            ComponentRequest(folder, frozenset(parts), dtype, torch.device("cpu"), options, **more)
        )

    return load


@pytest.fixture
def cosmos2(load_cosmos2) -> Components:
    return load_cosmos2()
