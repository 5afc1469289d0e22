"""The rules of the guardrail. The published one is not installed here: a recorder of its interface takes its place."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from tuner.randomness import normal_tensor
from tuner_cosmos2 import guardrail, plugin
from tuner_cosmos2.facts import Cosmos2Options
from tuner_cosmos2.guardrail import Guardrail, GuardrailError, Unchecked


class Recorder:
    """The interface of `cosmos_guardrail.CosmosSafetyChecker`: it returns None for pictures that it refuses."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.devices: list[str] = []
        self.verdict = True

    def to(self, device):
        self.devices.append(str(device))

    def check_text_safety(self, prompt):
        self.read.append(prompt)
        return "forbidden" not in prompt

    def check_video_safety(self, frames):
        assert frames.dtype == np.uint8
        return 255 - frames if self.verdict else None


@pytest.fixture
def published(cosmos2):
    """A model that is no twin: the mark is gone."""
    cosmos2.denoiser.register_to_config(_tuner_twin=False)
    return cosmos2


@pytest.fixture
def recorder(monkeypatch):
    module = ModuleType("cosmos_guardrail")
    made = []

    def create():
        made.append(Recorder())
        return made[-1]

    module.CosmosSafetyChecker = create
    monkeypatch.setitem(sys.modules, "cosmos_guardrail", module)
    monkeypatch.setattr(guardrail, "is_cosmos_guardrail_available", lambda: True)
    guardrail._installed_guardrail.cache_clear()
    yield made
    guardrail._installed_guardrail.cache_clear()


def sample(components, prompt="a cat"):
    sampler = plugin.validation_pipeline(components)
    with torch.no_grad():
        return sampler.pipeline(
            **sampler.arguments(plugin.encode_prompt(components, [prompt], "caption"), None),
            guidance_scale=1.0,
            height=32,
            width=48,
            num_inference_steps=2,
            latents=normal_tensor((1, 16, 1, 4, 6), 0, "noise"),
            output_type="np",
        ).images


def test_without_the_package_sampling_is_refused(published, monkeypatch):
    monkeypatch.setattr(guardrail, "is_cosmos_guardrail_available", lambda: False)
    with pytest.raises(GuardrailError, match=r"licence.*cosmos_guardrail is not installed") as caught:
        plugin.validation_pipeline(published)
    assert "cosmos2_sample_without_guardrail" in str(caught.value)
    assert "validation_step_interval 0" in str(caught.value)


def test_the_option_turns_the_check_off(published, recorder):
    published.options = Cosmos2Options(cosmos2_sample_without_guardrail=True)
    assert isinstance(guardrail.create_guardrail(published), Unchecked)
    assert sample(published).shape == (1, 32, 48, 3)
    assert not recorder


def test_a_twin_needs_no_check(cosmos2, load_cosmos2, tmp_path, recorder):
    assert isinstance(guardrail.create_guardrail(cosmos2), Unchecked)
    # Saved and loaded again, as after a full tune, it is a twin still.
    cosmos2.denoiser.save_pretrained(tmp_path / "transformer")
    assert isinstance(guardrail.create_guardrail(load_cosmos2({"denoiser"}, folder=tmp_path)), Unchecked)
    assert not recorder


def test_the_installed_guardrail_reads_prompts_and_pictures(published, recorder):
    unchecked = sample_unchecked(published)
    pictures = sample(published, "a red cat.")
    assert recorder[0].read == ["a red cat."]
    assert recorder[0].devices[-1] == "cpu"
    np.testing.assert_allclose(pictures, 1 - unchecked, atol=1e-6)
    sample(published)
    assert len(recorder) == 1  # loaded once


def sample_unchecked(components):
    options, components.options = components.options, Cosmos2Options(cosmos2_sample_without_guardrail=True)
    try:
        return sample(components, "a red cat.")
    finally:
        components.options = options


def test_a_refused_prompt_is_an_error_and_a_refused_picture_is_black(published, recorder):
    with pytest.raises(GuardrailError, match="refuses the prompt 'a forbidden thing'"):
        sample(published, "a forbidden thing")
    recorder[0].verdict = False
    assert not sample(published).any()


def test_a_guardrail_that_does_not_load_is_named(published, recorder, monkeypatch):
    def fail():
        raise OSError("403: gated repository")

    monkeypatch.setattr(sys.modules["cosmos_guardrail"], "CosmosSafetyChecker", fail)
    with pytest.raises(GuardrailError, match="could not be loaded: OSError: 403: gated repository"):
        plugin.validation_pipeline(published)


def test_the_wrapper_keeps_what_the_guardrail_gives():
    frames = np.full((1, 2, 2, 3), 7, np.uint8)
    assert (Guardrail(Recorder()).check_video_safety(frames) == 248).all()
    assert Unchecked().check_video_safety(frames) is frames
