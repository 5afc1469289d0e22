"""Whatever is trained, stopped, saved and re-opened is what was trained, on the layers that were meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tuner.adapters import load_exported
from tuner.adapters.lycoris_layers import DEFAULT_CLASSES, select_layers
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisPreset
from tuner.errors import ConfigError
from tuner.optim.state import optimizer_state
from tuner.testing.family import FamilyUnderTest, relative_error
from tuner.testing.learning import KINDS, SIGMAS, Kind, adapt, learner, lokr, train
from tuner.training.loop import Learner
from tuner.training.persistence import hold_state, load_learner, save_learner
from tuner.types import Components

ADAPTERS = [name for name, kind in KINDS.items() if kind.model_type == "lora"]


@dataclass(frozen=True)
class Trained:
    """Six steps of training.

    Attributes:
        kind: Of what was trained.
        base: Velocity of the base model.
        learner: What was trained, after six steps.
        checkpoint: Folder of the state after three steps.
        exported: What was saved after six.
    """

    kind: Kind
    base: Tensor
    learner: Learner
    checkpoint: Path
    exported: Path


@pytest.fixture(scope="module", params=KINDS)
def trained(
    family: FamilyUnderTest, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """What six steps of each kind of training gave."""
    kind = KINDS[request.param]
    base = _velocity(family, family.components)
    subject = learner(family, kind)
    checkpoint, folder = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("exported")
    train(family, subject, 0, 3)
    save_learner(subject, hold_state(subject), checkpoint, {})
    train(family, subject, 3, 6)
    return Trained(kind, base, subject, checkpoint, subject.trainable.export(folder, {}))


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_new_adapter_changes_nothing(family: FamilyUnderTest, name: str) -> None:
    """Training starts from the base model."""
    components = family.load("denoiser")
    expected = _velocity(family, components)
    adapt(family, components, KINDS[name])
    assert relative_error(_velocity(family, components), expected) <= 1e-6


@pytest.mark.parametrize("use_scalar", [False, True])
def test_a_lokr_that_starts_from_noise(family: FamilyUnderTest, use_scalar: bool) -> None:
    """Each layer starts from ones and from noise like its own weights; a scalar of 0 keeps it from being seen yet."""
    norm = 1e-2
    components = family.load("denoiser")
    expected = _velocity(family, components)
    assert components.denoiser is not None
    weights = {name: weight.clone() for name, weight in components.denoiser.named_parameters()}
    adapter = AdapterConfig(lora_type="lycoris", init_lokr_norm=norm)
    state = adapt(
        family, components, replace(KINDS["lokr"], adapter=adapter, lycoris=lokr(use_scalar=use_scalar))
    ).state()
    layers = _layers_of_classes(family, components.denoiser, DEFAULT_CLASSES)
    assert layers
    for layer in layers:
        name, (std, mean) = f"lycoris_{layer.replace('.', '_')}", torch.std_mean(weights[f"{layer}.weight"])
        first, second = state[f"{name}.lokr_w1"], state[f"{name}.lokr_w2"]
        assert torch.equal(first, torch.ones_like(first)), layer
        torch.testing.assert_close(second.std(), std * norm, rtol=1e-4, atol=0)
        torch.testing.assert_close(second.mean(), mean * norm, rtol=1e-3, atol=1e-7)
    shift = relative_error(_velocity(family, components), expected)
    assert shift <= 1e-6 if use_scalar else 1e-6 < shift < 0.5, shift


@pytest.mark.parametrize("trained", ADAPTERS, indirect=True)
def test_a_run_starts_from_a_saved_adapter(family: FamilyUnderTest, trained: Trained) -> None:
    """A fresh run that is given the file of another begins with what that one had learned."""
    components = family.load("denoiser")
    adapter = trained.kind.adapter.model_copy(update={"init_lora": trained.exported})
    trainable = adapt(family, components, replace(trained.kind, adapter=adapter))
    assert len(trainable.named_parameters()) == len(trained.learner.trainable.named_parameters())
    velocity = _velocity(family, trained.learner.components)
    assert relative_error(_velocity(family, components), velocity) <= 1e-5


def test_what_was_trained_survives_saving(family: FamilyUnderTest, trained: Trained) -> None:
    """A few steps change the velocity; saved and put on weights from disk, the result samples the same."""
    components = trained.learner.components
    velocity = _velocity(family, components)
    assert relative_error(velocity, trained.base) > 1e-3, "six steps of training change next to nothing"
    reopened = _reopened(family, trained)
    assert relative_error(_velocity(family, reopened), velocity) <= 1e-5
    assert relative_error(_sampled(family, reopened), _sampled(family, components)) <= 1e-5


@pytest.mark.parametrize("trained", ADAPTERS, indirect=True)
def test_the_strength_of_an_adapter(family: FamilyUnderTest, trained: Trained) -> None:
    """At strength 0 it is the base model; after the block, however that ends, it is what it was, bit for bit."""
    components, trainable = trained.learner.components, trained.learner.trainable
    velocity, state = _velocity(family, components), {name: value.clone() for name, value in trainable.state().items()}
    with trainable.at_strength(0):
        assert relative_error(_velocity(family, components), trained.base) <= 1e-6
    with pytest.raises(RuntimeError), trainable.at_strength(0.5):
        assert not torch.equal(_velocity(family, components), velocity)
        raise RuntimeError
    assert torch.equal(_velocity(family, components), velocity)
    _assert_equal(trainable.state(), state)


def test_stopping_and_going_on_changes_nothing(family: FamilyUnderTest, trained: Trained) -> None:
    """Three steps, a checkpoint, and three more in a fresh model give bit for bit what six give."""
    resumed = learner(family, trained.kind)
    load_learner(resumed, trained.checkpoint)
    train(family, resumed, 3, 6)
    _assert_equal(resumed.trainable.state(), trained.learner.trainable.state())
    _assert_equal(optimizer_state(resumed.optimizer)[0], optimizer_state(trained.learner.optimizer)[0])


def test_all_that_was_trained_is_saved(family: FamilyUnderTest, trained: Trained) -> None:
    """The file holds the tensors of every layer that was meant, each once, and no others."""
    names = _saved_names(trained.exported)
    denoiser = family.components.denoiser
    assert denoiser is not None
    if trained.kind.model_type == "full":
        assert names == sorted(denoiser.state_dict())
        return
    layers = _layers(family, denoiser, trained.kind)
    assert layers
    assert names == sorted(
        _saved_name(family, trained.kind, layer, tensor) for layer in layers for tensor in trained.kind.tensors
    )


def test_gradients_stay_inside_what_is_trained(family: FamilyUnderTest, trained: Trained) -> None:
    """The base model's weights get no gradients, and what trains does."""
    own = {id(weight) for _, weight in trained.learner.trainable.named_parameters()}
    denoiser = trained.learner.trainable.denoiser
    strangers = [
        name
        for name, weight in denoiser.named_parameters()
        if id(weight) not in own and (weight.requires_grad or weight.grad is not None)
    ]
    assert not strangers, f"weights of the base model are trained: {strangers}"
    # Experts of a mixture that no token was sent to get none.
    moved = [weight for _, weight in trained.learner.trainable.named_parameters() if weight.grad is not None]
    assert len(moved) > len(own) / 4
    assert all(bool(weight.grad.isfinite().all()) for weight in moved if weight.grad is not None)


@pytest.mark.parametrize("name", DEFAULT_CLASSES)
def test_customary_class_names_are_understood(family: FamilyUnderTest, name: str) -> None:
    """LyCORIS files that people share speak of Attention and FeedForward; each means some layers, and only its own."""
    denoiser = family.components.denoiser
    assert denoiser is not None
    preset = LycorisPreset(target_module=[name])
    selection = select_layers(denoiser, preset, family.facts.class_aliases, "lycoris_config.json")
    expected = _layers_of_classes(family, denoiser, [name])
    assert expected, f"class_aliases gives {name} no layer of {type(denoiser).__name__}"
    assert [layer.name for layer in selection.layers] == expected
    assert selection.matches[name] == len(expected)


def test_an_unknown_class_name_is_refused(family: FamilyUnderTest) -> None:
    """A name in a LyCORIS file that matches nothing stops the run."""
    denoiser = family.components.denoiser
    assert denoiser is not None
    preset = LycorisPreset(target_module=["Attention", "NoSuchClass"])
    with pytest.raises(ConfigError, match="NoSuchClass"):
        select_layers(denoiser, preset, family.facts.class_aliases, "lycoris_config.json")


def _reopened(family: FamilyUnderTest, trained: Trained) -> Components:
    """Load what was saved as its users will: an adapter onto weights from disk, a whole denoiser from its folder."""
    if trained.kind.model_type == "full":
        request = replace(family.request("denoiser"), folder=trained.exported.parent)
        components: Components = family.hooks.load_components(request=request)
        return components
    components = family.load("denoiser")
    assert components.denoiser is not None
    load_exported(trained.exported, components.denoiser)
    components.denoiser.eval()
    return components


def _layers(family: FamilyUnderTest, denoiser: nn.Module, kind: Kind) -> list[str]:
    """Name the layers that an adapter is meant for, by the facts alone."""
    if kind.lycoris is None:
        targets = tuple(f".{target}" for target in family.facts.adapter_targets)
        return [name for name, _ in denoiser.named_modules() if f".{name}".endswith(targets)]
    return _layers_of_classes(family, denoiser, kind.lycoris.apply_preset.target_module or DEFAULT_CLASSES)


def _layers_of_classes(family: FamilyUnderTest, denoiser: nn.Module, classes: Iterable[str]) -> list[str]:
    own = {own for name in classes for own in family.facts.class_aliases.get(name, (name,))}
    inside = {
        layer
        for module in denoiser.modules()
        if type(module).__name__ in own
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    return [name for name, module in denoiser.named_modules() if module in inside]


def _saved_names(exported: Path) -> list[str]:
    files = exported.glob("*.safetensors") if exported.is_dir() else [exported]
    names: list[str] = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names += opened.keys()
    return sorted(names)


def _saved_name(family: FamilyUnderTest, kind: Kind, layer: str, tensor: str) -> str:
    """Return the name that an adapter's file must have for a tensor, in diffusers' or LyCORIS' manner."""
    if kind.lycoris is None:
        return f"{family.facts.part_folders['denoiser'][0]}.{layer}.{tensor}"
    return f"lycoris_{layer.replace('.', '_')}.{tensor}"


def _assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    unequal = [name for name, tensor in expected.items() if not torch.equal(actual[name], tensor)]
    assert not unequal, f"{len(unequal)} of {len(expected)} tensors differ, such as {unequal[:3]}"


@torch.no_grad()
def _velocity(family: FamilyUnderTest, components: Components) -> Tensor:
    return family.predict(family.batch(SIGMAS), components).velocity


def _sampled(family: FamilyUnderTest, components: Components) -> Tensor:
    """Return the latent of a picture: some pipelines round the picture itself to 8 bits."""
    sampler = family.sampler(replace(family.components, denoiser=components.denoiser))
    side = family.side
    noise = family.noise(family.latents(1, side, side).shape)
    latent: Tensor = family.sample(sampler, noise, steps=2, guidance=1.0, output_type="latent", height=side, width=side)
    return latent
