from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.omnigen.processor_omnigen import OmniGenCollator, OmniGenMultiModalProcessor

from tuner.types import ComponentRequest, Components, NoOptions
from tuner_omnigen import plugin

PARTS = frozenset({"text_encoders", "codec", "denoiser", "scheduler"})


@pytest.fixture(scope="session")
def omnigen_twin(tmp_path_factory) -> Path:
    return plugin.make_twin(tmp_path_factory.mktemp("omnigen") / "twin")


@pytest.fixture
def load_omnigen(omnigen_twin) -> Callable[..., Components]:
    def load(parts=PARTS, folder=omnigen_twin, dtype=torch.float32, **more) -> Components:
        return plugin.load_components(
            ComponentRequest(folder, frozenset(parts), dtype, torch.device("cpu"), NoOptions(), **more)
        )

    return load


@pytest.fixture
def omnigen(load_omnigen) -> Components:
    return load_omnigen()


@pytest.fixture(scope="session")
def published_processor() -> type[OmniGenMultiModalProcessor]:
    """The pipeline's own processor and collator, but for the transforms of pictures, which need torchvision."""

    class Processor(OmniGenMultiModalProcessor):
        def __init__(self, text_tokenizer, max_image_size=1024):
            self.text_tokenizer, self.max_image_size = text_tokenizer, max_image_size
            self.collator = OmniGenCollator()

    return Processor
