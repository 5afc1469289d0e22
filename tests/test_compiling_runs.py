"""Compiling the denoiser's blocks, in whole runs of a real family.

The backend traces blocks as inductor does, and computes with ordinary kernels: quick, and no compiler is needed.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
import torch._inductor.config
from PIL import Image
from safetensors import safe_open
from torch._dynamo.utils import counters

from tuner.config.compiling import compiling_problems
from tuner.config.launch import LaunchConfig
from tuner.config.loading import load_config
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.precision import PrecisionConfig
from tuner.config.validation import ValidationConfig
from tuner.errors import ConfigError, TunerError
from tuner.plugins import load_family
from tuner.training.run import train

pytestmark = pytest.mark.long

STEPS = 2
SETTINGS = {
    "max_train_steps": STEPS,
    "gradient_checkpointing": True,
    "validation_prompt": "a cat",
    "validation_step_interval": STEPS,
    "validation_num_inference_steps": 2,
    "validation_resolution": "128",
    "validation_disable_unconditional": True,
    "validation_seed": 1,
    "seed": 5,
    "dataset": {"crop": True},
}


def tensors(file):
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - the file is no mapping


def pictures(folder):
    return {file.name: np.asarray(Image.open(file)).astype(int) for file in sorted(Path(folder).rglob("*.png"))}


@pytest.fixture
def run(project):
    """Train with settings from a clean state of the compiler: (exported file, pictures, programs made)."""

    def with_settings(name, **settings):
        torch._dynamo.reset()
        counters.clear()
        exported = train(load_config(project(**{**SETTINGS, **settings}, output_dir=name))).exported
        return exported, pictures(name), counters["stats"]["unique_graphs"]

    return with_settings


def test_a_compiled_run_learns_the_same_under_the_same_names(run, weights):
    plain, drawn, none = run("plain")
    compiled, redrawn, programs = run("compiled", dynamo_backend="eager")
    everything, recompiled, more = run("everything", dynamo_backend="EAGER", validation_torch_compile=True)
    assert none == 0 < programs < more
    expected, found = tensors(plain), tensors(compiled)
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)
    # Compiling for pictures touches nothing that trains.
    assert weights(everything) == weights(compiled)
    # Before the first step no weight differs: pictures are made as they are unless asked otherwise.
    for name, picture in drawn.items():
        assert np.abs(redrawn[name] - picture).max() <= (0 if name.startswith("step_0") else 1)
        assert np.abs(recompiled[name] - picture).max() <= 1


def test_full_tunes_keep_the_layout(run):
    settings = {"model_type": "full", "learning_rate": 1e-4, "validation_step_interval": 0}
    expected, found = (
        tensors(next((run(name, **{**settings, **backend})[0] / "transformer").glob("*.safetensors")))
        for name, backend in (("plain", {}), ("compiled", {"dynamo_backend": "eager"}))
    )
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)


def test_rollouts_and_regularisation_switch_the_adapter_off_and_on(run):
    settings = {
        "dataset": {"crop": True, "is_regularisation_data": True},
        "max_train_steps": 1,
        "scheduled_sampling_max_step_offset": 1,
        "scheduled_sampling_probability": 1.0,
        "validation_step_interval": 0,
    }
    expected, found = (
        tensors(run(name, **settings, **backend)[0])
        for name, backend in (("plain", {}), ("compiled", {"dynamo_backend": "eager"}))
    )
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)


def test_a_missing_compiler_is_named_before_anything_is_loaded(project):
    loaded = load_config(project(dynamo_backend="inductor"))
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(TunerError, match=r"dynamo_backend: inductor needs a C\+\+ compiler"),
    ):
        train(loaded)
    assert not Path("cache").exists()


@pytest.mark.parametrize("key", ["dynamo_backend", "validation_torch_compile"])
def test_a_family_may_refuse(key):
    facts = dataclasses.replace(load_family("sana").facts, uncompilable="its shapes never repeat")
    topics = {
        "launch": LaunchConfig(dynamo_backend="eager" if key == "dynamo_backend" else "no"),
        "validation": ValidationConfig(validation_torch_compile=key == "validation_torch_compile"),
        "model": ModelConfig(model_family="sana", model_type="lora", output_dir="out"),
        "memory": MemoryConfig(),
        "precision": PrecisionConfig(),
    }
    (problem,) = compiling_problems(topics, facts)
    assert (problem.key, problem.message) == (key, "Sana cannot be compiled: its shapes never repeat")
    assert list(compiling_problems(topics, load_family("sana").facts)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dynamo_backend": "inductr"}, "inductor"),
        ({"dynamo_backend": "tvm"}, "known, but not served yet"),
        ({"dynamo_backend": "eager", "base_model_precision": "int8-quanto"}, "stored as int8-quanto is not proven"),
        ({"validation_torch_compile": True, "enable_group_offload": True}, "enable_group_offload moves is not proven"),
    ],
)
def test_what_is_refused(project, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(project(**settings))


def test_a_bare_no_of_yaml_is_a_name():
    assert LaunchConfig(dynamo_backend=False).dynamo_backend == "no"
