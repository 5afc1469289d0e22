"""Every family samples with saved adapters of both kinds, and merging changes nothing."""

import numpy as np
import pytest
import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from PIL import Image
from safetensors.torch import save_file

from tuner.adapters import apply_saved
from tuner.cli.main import main
from tuner.errors import TunerError
from tuner.quantisation.schemes import SCHEMES
from tuner.quantisation.storing import store_frozen
from tuner.randomness import normal_tensor

pytestmark = pytest.mark.long

FAMILIES = ["auraflow", "cosmos2", "hidream", "omnigen", "sana"]
CPU = torch.device("cpu")


@pytest.fixture(params=FAMILIES)
def family(request, adapted_twin):
    return adapted_twin(request.param)


@pytest.fixture
def sana(adapted_twin):
    return adapted_twin("sana")


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_merged_weights_give_what_the_adapter_gives(kind, family):
    denoiser = family.load("denoiser").denoiser
    plain = {name: type(module) for name, module in denoiser.named_modules()}
    base = family.velocity(denoiser)
    applied = apply_saved(getattr(family, kind), denoiser)
    applied.set_strength(0.5)
    on = family.velocity(denoiser)
    applied.merge()
    merged = family.velocity(denoiser)
    assert {name: type(module) for name, module in denoiser.named_modules()} == plain
    assert (on - base).norm() / base.norm() > 5e-3
    assert (merged - on).norm() / on.norm() < 1e-4


def test_every_family_samples_and_heeds_the_negative_prompt(family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def picture(*arguments: object) -> np.ndarray:
        given = ("--base", family.folder, "--prompt", "a cat", "--steps", 2, "--guidance", 4, "--resolution", 64)
        assert main(["generate", *map(str, (*given, *arguments))]) == 0, capsys.readouterr().err
        return np.asarray(Image.open(capsys.readouterr().out.strip()))

    lora = picture("--adapter", family.lora, "--negative", "a dog")
    assert lora.shape == (64, 64, 3)
    assert (picture("--adapter", family.lora, "--negative", "an old blurred photograph") != lora).any()
    lokr = picture("--adapter", family.lokr, "--negative", "a dog")
    base = picture("--family", family.family.facts.name, "--precision", "no", "--negative", "a dog")
    assert (lora != base).any()
    assert (lokr != base).any()


@pytest.mark.parametrize("module_class", [LoConModule, LohaModule])
def test_other_kinds_of_lycoris_merge_exactly_too(module_class, sana, tmp_path):
    denoiser = sana.load("denoiser").denoiser
    tensors = {}
    for name, layer in denoiser.named_modules():
        if name.endswith(".to_q"):
            module = module_class("probe", layer, lora_dim=2, alpha=3)
            for key, value in module.custom_state_dict().items():
                random = value if key == "alpha" else 0.3 * normal_tensor(value.shape, 0, name, key)
                tensors[f"lycoris_{name.replace('.', '_')}.{key}"] = random.detach().clone()
    save_file(tensors, tmp_path / "other.safetensors")
    base = sana.velocity(denoiser)
    applied = apply_saved(tmp_path / "other.safetensors", denoiser)
    applied.set_strength(0.7)
    on = sana.velocity(denoiser)
    applied.merge()
    assert (on - base).norm() / base.norm() > 1e-3
    assert (sana.velocity(denoiser) - on).norm() / on.norm() < 1e-4


def test_merging_into_a_quantised_denoiser_is_refused(sana):
    denoiser = sana.load("denoiser").denoiser
    store_frozen(denoiser, SCHEMES["int8-quanto"], (), via=CPU, device=CPU)
    applied = apply_saved(sana.lora, denoiser)
    with pytest.raises(TunerError, match="merge first and quantise afterwards"):
        applied.merge()
