"""Every family samples with saved adapters of both kinds, and merging changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from PIL import Image
from safetensors.torch import save_file

from tuner.adapters import apply_saved, create_trainable
from tuner.cli.main import main
from tuner.cli.twins import write_twin
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner.errors import TunerError
from tuner.plugins import create_manager, load_family
from tuner.provenance import Provenance
from tuner.quantisation.schemes import SCHEMES
from tuner.quantisation.storing import store_frozen
from tuner.randomness import normal_tensor
from tuner.types import Batch, ComponentRequest

FAMILIES = ["auraflow", "cosmos2", "hidream", "omnigen", "sana"]
CPU = torch.device("cpu")
LOKR = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 2, "linear_alpha": 3, "factor": 4, "use_scalar": True}


class Twin:
    """A family's twin, and adapters with random weights for it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.family = load_family(name)
        self.folder = write_twin(self.family, folder / "twin")
        self.hook = create_manager(self.family).hook
        self.lora = self._adapter(folder / "lora", AdapterConfig(lora_type="standard", lora_rank=4, lora_alpha=6), None)
        self.lokr = self._adapter(folder / "lokr", AdapterConfig(lora_type="lycoris"), LycorisConfig(**LOKR))

    def load(self, *parts: str):
        options = self.family.facts.options()
        request = ComponentRequest(self.folder, frozenset(parts), torch.float32, CPU, options)
        return self.hook.load_components(request=request)

    def _adapter(self, folder: Path, adapter: AdapterConfig, lycoris: LycorisConfig | None) -> Path:
        trainable = create_trainable(
            model_type="lora", adapter=adapter, lycoris=lycoris, facts=self.family.facts,
            denoiser=self.load("denoiser").denoiser, dtype=torch.float32, seed=1,
        )  # fmt: skip
        with torch.no_grad():
            for name, weight in trainable.named_parameters():
                weight.copy_(0.2 * normal_tensor(weight.shape, 0, name))
        texts = Provenance(family=self.family.facts.name, tuner_version="0", settings={"mixed_precision": "no"}).texts()
        return trainable.export(folder, texts)

    @torch.no_grad()
    def velocity(self, denoiser: torch.nn.Module) -> torch.Tensor:
        components = self.load("text_encoders")
        components.denoiser = denoiser.eval()
        conditioning = self.hook.encode_prompt(components=components, prompts=["a cat"], role="caption")
        facts = self.family.facts
        shape = (1, facts.latent_channels, *((1,) if facts.name == "cosmos2" else ()), 4, 4)
        x = normal_tensor(shape, 0, "x")
        return self.hook.compute_loss(
            components=components, batch=Batch(x, torch.tensor([0.5]), x, conditioning)
        ).velocity


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Twin:
    return Twin(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sana(tmp_path_factory) -> Twin:
    return Twin("sana", tmp_path_factory.mktemp("sana"))


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
    if family.family.facts.canvas_limit:
        assert main(["generate", "--adapter", str(family.lora), "--base", str(family.folder), "--prompt", "a",
                     "--resolution", "2048"]) == 2  # fmt: skip
        assert "2048x2048 is too large" in capsys.readouterr().err


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
