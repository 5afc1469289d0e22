from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tuner.randomness import normal_tensor
from tuner.types import Batch, ComponentRequest, Components
from tuner_hidream import plugin
from tuner_hidream.facts import HiDreamOptions

PARTS = frozenset({"text_encoders", "codec", "denoiser", "scheduler"})


@pytest.fixture(scope="session")
def hidream_twin(tmp_path_factory) -> Path:
    return plugin.make_twin(tmp_path_factory.mktemp("hidream") / "twin")


@pytest.fixture
def load_hidream(hidream_twin) -> Callable[..., Components]:
    def load(parts=PARTS, folder=hidream_twin, dtype=torch.float32, **more) -> Components:
        options = more.pop("options", HiDreamOptions())
        return plugin.load_components(
            ComponentRequest(folder, frozenset(parts), dtype, torch.device("cpu"), options, **more)
        )

    return load


@pytest.fixture
def hidream(load_hidream) -> Components:
    return load_hidream()


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Batches with random conditionings of the twin's widths; shorter than real ones, to be quick."""

    def make(sigma=(0.2, 0.9), height=8, width=8, dtype=torch.float32) -> Batch:
        count = len(sigma)
        x = normal_tensor((count, 16, height, width), 0, "x").to(dtype)
        conditioning = {
            "prompt_embeds_t5": normal_tensor((count, 8, 32), 0, "t5"),
            "prompt_embeds_llama3": normal_tensor((count, 2, 8, 48), 0, "llama"),
            "pooled_prompt_embeds": normal_tensor((count, 64), 0, "pooled"),
        }
        target = normal_tensor(x.shape, 0, "target")
        return Batch(x, torch.tensor(sigma), target, conditioning)

    return make
