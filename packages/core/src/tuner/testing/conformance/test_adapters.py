"""Adapters train, and what is saved, re-opened on fresh weights, is what was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tuner.adapters import Trainable, create_trainable, load_exported
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner.flow import velocity_loss
from tuner.testing.family import FamilyUnderTest, relative_error
from tuner.types import Components

_SIGMAS = (0.25, 0.75)

KINDS = {
    "standard": (AdapterConfig(lora_type="standard", lora_rank=4, lora_dropout=0.0), None),
    "lycoris": (
        AdapterConfig(lora_type="lycoris"),
        LycorisConfig(algo="lokr", multiplier=1.0, linear_alpha=1.0, factor=4, full_matrix=True),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing(family: FamilyUnderTest, kind: str) -> None:
    """Training starts from the base model."""
    components = family.load("denoiser")
    expected = _velocity(family, components)
    _adapt(family, components, kind)
    assert relative_error(_velocity(family, components), expected) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_adapter_survives_saving(family: FamilyUnderTest, kind: str, tmp_path: Path) -> None:
    """A few steps change the velocity; saved and put on weights from disk, the adapter samples the same."""
    components = family.load("denoiser")
    untrained = _velocity(family, components)
    trainable = _adapt(family, components, kind)
    _train(family, components, trainable)
    trained = _velocity(family, components)
    assert relative_error(trained, untrained) > 1e-3, "three steps of training change next to nothing"
    saved = trainable.export(tmp_path / "adapter", {})

    reopened = family.load("denoiser")
    assert reopened.denoiser is not None
    load_exported(saved, reopened.denoiser)
    reopened.denoiser.eval()
    assert relative_error(_velocity(family, reopened), trained) <= 1e-5
    assert relative_error(_sampled(family, reopened), _sampled(family, components)) <= 1e-5


def _adapt(family: FamilyUnderTest, components: Components, kind: str) -> Trainable:
    adapter, lycoris = KINDS[kind]
    assert components.denoiser is not None
    return create_trainable(
        model_type="lora",
        adapter=adapter,
        lycoris=lycoris,
        facts=family.facts,
        denoiser=components.denoiser,
        dtype=torch.float32,
        seed=1,
    )


def _train(family: FamilyUnderTest, components: Components, trainable: Trainable) -> None:
    assert components.denoiser is not None
    components.denoiser.train()
    optimizer = torch.optim.AdamW([weight for _, weight in trainable.named_parameters()], lr=0.03)
    batch = family.batch(_SIGMAS)
    for _ in range(3):
        prediction = family.predict(batch, components)
        loss = velocity_loss(prediction.velocity, batch.target, prediction.weight).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    components.denoiser.eval()


@torch.no_grad()
def _velocity(family: FamilyUnderTest, components: Components) -> Tensor:
    return family.predict(family.batch(_SIGMAS), components).velocity


def _sampled(family: FamilyUnderTest, components: Components) -> Tensor:
    """Return the latent of a picture: some pipelines round the picture itself to 8 bits."""
    sampler = family.sampler(replace(family.components, denoiser=components.denoiser))
    side = family.side
    noise = family.noise(family.latents(1, side, side).shape)
    latent: Tensor = family.sample(sampler, noise, steps=2, guidance=1.0, output_type="latent", height=side, width=side)
    return latent
