from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tuner.types import ComponentRequest, Components
from tuner_sana import plugin
from tuner_sana.facts import SanaOptions

PARTS = frozenset({"text_encoders", "codec", "denoiser", "scheduler"})


@pytest.fixture(scope="session")
def sana_twin(tmp_path_factory) -> Path:
    return plugin.make_twin(tmp_path_factory.mktemp("sana") / "twin")


@pytest.fixture
def load_sana(sana_twin) -> Callable[..., Components]:
    def load(parts=PARTS, folder=sana_twin, dtype=torch.float32, **more) -> Components:
        options = more.pop("options", SanaOptions())
        return plugin.load_components(
            ComponentRequest(folder, frozenset(parts), dtype, torch.device("cpu"), options, **more)
        )

    return load


@pytest.fixture
def sana(load_sana) -> Components:
    return load_sana()
